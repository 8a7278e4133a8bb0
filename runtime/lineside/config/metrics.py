"""[metrics] of lineside.toml: where Prometheus may ask."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from lineside.checked import Check, Is, Table, table


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("must be an IP address of this box; 0.0.0.0 or :: is every one") from error


@table
class MetricsConfig(Table):
    """[metrics]: with this table the daemon serves http://ADDRESS:PORT/metrics, without password or encryption."""

    address: Annotated[str, Check(_address), Is("where it listens; other machines reach it only if you say so")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Is(ge=1, le=65535)] = 9464
