"""[commands] of lineside.toml: who may have messages sent again, and tell this box what to do."""

from __future__ import annotations

import base64
import binascii
from dataclasses import field
from typing import Annotated, Literal

from lineside.checked import Check, Is, Table, table
from lineside.config.stations import Name

KEY_BYTES = 32


def _public_key(text: str) -> str:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"must be an Ed25519 public key: {KEY_BYTES} bytes in base64, as the client's Signer shows it")
    return text


@table
class ClientConfig(Table):
    """One that may send signed commands."""

    public_key: Annotated[str, Check(_public_key), Is("Ed25519, base64")]
    may: Annotated[
        tuple[Literal["resend", "missed_defect", "recipe"], ...], Is("which commands it may send", min_length=1)
    ]

    def key(self) -> bytes:
        return base64.b64decode(self.public_key)


@table
class CommandsConfig(Table):
    """Commands over MQTT. Without clients none is taken but to send messages again."""

    resend: Annotated[
        Literal["anyone", "signed"],
        Is("who may ask for messages again: anyone whom the broker's ACL lets, or clients with `resend` in `may`"),
    ] = "anyone"
    max_age_s: Annotated[float, Is("longer ago, or so far ahead, a command is refused", ge=1, le=3600)] = 60.0
    clients: dict[Name, ClientConfig] = field(default_factory=dict)
