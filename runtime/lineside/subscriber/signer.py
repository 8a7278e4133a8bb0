"""Signs commands for a box: Ed25519 over the canonical bytes of the command, by PyNaCl or cryptography."""

from __future__ import annotations

import base64
import importlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

PURPOSE = b"lineside command 1\n"  # before the canonical bytes: the signature is good for nothing else
SEED_BYTES = 32


def canonical(fields: Mapping[str, object]) -> bytes:
    """What is signed: PURPOSE, then the fields but `signature` as JSON with sorted keys, no spaces, ASCII only."""
    signed = {name: value for name, value in fields.items() if name != "signature"}
    return PURPOSE + json.dumps(signed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


class Signer:
    """One client's key. `client` is its name in [commands.clients] of the boxes."""

    def __init__(self, client: str, seed: bytes) -> None:
        """`seed` is the private key, 32 bytes. Raises ValueError, or ImportError without PyNaCl and cryptography."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 private key has {SEED_BYTES} bytes, not {len(seed)}")
        self.client = client
        self._sign, public = _ed25519(seed)
        self.public_key = base64.b64encode(public).decode()  # what [commands.clients] wants

    @classmethod
    def of_file(cls, client: str, path: Path) -> Signer:
        """The key in a file (base64); a new one is made, readable by its owner only, where there is none."""
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(client, base64.b64decode(path.read_text(), validate=False))
        with os.fdopen(file, "w") as fresh:
            seed = secrets.token_bytes(SEED_BYTES)
            fresh.write(base64.b64encode(seed).decode() + "\n")
        return cls(client, seed)

    def command(self, to: str, command: str, args: Mapping[str, object], **more: object) -> bytes:
        """A signed command message for the box whose command topic is `to`; `more` are further fields of it."""
        fields = {
            "command": command,
            "args": dict(args),
            "client": self.client,
            "to": to,
            "issued_at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "nonce": secrets.token_hex(16),
            **more,
        }
        signature = base64.b64encode(self._sign(canonical(fields))).decode()
        return json.dumps({**fields, "signature": signature}).encode()


def _ed25519(seed: bytes) -> tuple[Callable[[bytes], bytes], bytes]:
    """(sign, public key)"""
    try:
        nacl = importlib.import_module("nacl.signing")
    except ImportError:
        try:
            ed25519 = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
        except ImportError as error:
            raise ImportError("to sign commands, install one of them: pip install pynacl, or cryptography") from error
        private = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        return private.sign, private.public_key().public_bytes_raw()
    key = nacl.SigningKey(seed)
    return lambda text: key.sign(text).signature, bytes(key.verify_key)
