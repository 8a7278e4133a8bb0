"""[sparkplug] of lineside.toml: this box as a Sparkplug B edge node, beside [mqtt] or in its place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from lineside.checked import Check, Is, Table, table
from lineside.config.delivery import MqttConfig, TlsConfig, file_problems
from lineside.errors import ConfigError
from lineside.registry import vendor

_BAD = re.compile(r"[+#/\x00-\x1f\x7f]")
_BROKER = ("port", "protocol", "username", "password_file", "tls", "keepalive_s")  # what goes with `host`


def _sparkplug_id(name: str) -> str:
    if not name or _BAD.search(name):
        raise ValueError("a Sparkplug id may hold no + # / and no control character, and not be empty")
    return name


Id = Annotated[str, Check(_sparkplug_id), Is(max_length=128)]


@table
class SparkplugConfig(Table):
    """[sparkplug]: the edge node that hosts (SCADA, MES) see; each station is a device of it. Needs the extra
    `sparkplug`."""

    group_id: Annotated[Id, Is("which group the edge node belongs to, such as the plant")]
    edge_node_id: Annotated[Id, Is("this box; group_id and edge_node_id together are unique in the plant")]
    devices: Annotated[dict[str, Id], Is("station -> device id; default: the station's name")] = field(
        default_factory=dict
    )
    primary_host: Annotated[
        Id | None, Is("host application id: without this host online nothing is sent, and all is kept until it is")
    ] = None
    host: Annotated[
        str | None,
        Is("the broker; default: that of [mqtt], with its port, user and TLS", min_length=1, max_length=253),
    ] = None
    port: Annotated[int | None, Is("default: 1883, with [sparkplug.tls] 8883", ge=1, le=65535)] = None
    protocol: Literal["5", "3.1.1"] | None = None
    username: str | None = None
    password_file: Annotated[Path | None, Is("file whose first line is the password")] = None
    tls: TlsConfig | None = None
    client_id: Annotated[str | None, Is("default: lineside-HOSTNAME-sparkplug", min_length=1, max_length=128)] = None
    keepalive_s: Annotated[int | None, Is(ge=2, le=3600)] = None
    datatypes_in_data: Annotated[
        bool, Is("repeat datatypes in every data message: some decoders (npm's sparkplug-payload) need them")
    ] = False
    inflight: Annotated[int, Is("messages sent and not yet handed back", ge=2, le=120)] = 32
    live_max_age_ms: Annotated[
        int, Is("an older decision is sent as historical, after live ones", ge=100, le=3_600_000)
    ] = 5000
    ack_timeout_s: Annotated[float, Is("without the broker handing back for so long: reconnect", ge=0.5, le=300)] = 10.0
    settle_s: Annotated[
        float | None,
        Is(
            "what was handed back less than this before the connection broke, or the primary host went, is sent again; "
            "default: 2, with a primary_host 60, which is longer than it takes to notice a host that crashed",
            ge=0,
            le=600,
        ),
    ] = None
    reconnect_min_s: Annotated[float, Is(ge=0.05, le=60)] = 0.5
    reconnect_max_s: Annotated[float, Is(ge=0.05, le=3600)] = 30.0
    heartbeat_s: Annotated[float, Is("how often what has changed of the node is published", ge=1, le=3600)] = 10.0

    def __post_init__(self) -> None:
        if self.host is None and any(getattr(self, name) is not None for name in _BROKER):
            raise ValueError("port, protocol, user and tls go with a host: name it, or leave all of them to [mqtt]")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must be at least reconnect_min_s")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs a username")

    def fault(self, stations: Iterable[str], mqtt: MqttConfig | None) -> str | None:
        """What does not fit the rest of the configuration."""
        if self.host is None and mqtt is None:
            return "@sparkplug.host: name the broker here, or in [mqtt]"
        known = list(stations)
        for station in self.devices:
            if station not in known:
                return f"@sparkplug.devices.{station}: no such station; [stations] has {', '.join(known)}"
        ids = [device.lower() for device in self.device_ids(known).values()]
        for device in ids:
            if ids.count(device) > 1:
                return f"@sparkplug.devices: two stations are device {device!r}: give each its own, in other letters"
        return None

    def device_ids(self, stations: Iterable[str]) -> dict[str, str]:
        """Station -> device id."""
        return {station: self.devices.get(station, station) for station in stations}

    def options(self, mqtt: MqttConfig | None) -> dict[str, Any]:
        """Keyword arguments of deliver.sparkplug.sink.SparkplugSink."""
        names = ("host", *_BROKER)
        broker: Any = mqtt if self.host is None else self
        tls: TlsConfig | None = broker.tls
        return {
            **self.values(without=(*names, "devices", "settle_s")),
            "settle_s": (2.0 if self.primary_host is None else 60.0) if self.settle_s is None else self.settle_s,
            "host": broker.host,
            "port": broker.port or (8883 if tls else 1883),
            "protocol": broker.protocol or "5",
            "username": broker.username,
            "password_file": broker.password_file,
            "keepalive_s": broker.keepalive_s or 15,
            "tls": tls is not None,
            "ca_file": tls.ca_file if tls else None,
            "cert_file": tls.cert_file if tls else None,
            "key_file": tls.key_file if tls else None,
        }

    def problems(self) -> list[str]:
        """What keeps the sink from working, a complete line each."""
        lines = file_problems("sparkplug", self.password_file, self.tls)
        try:
            vendor("google.protobuf")
        except ConfigError as error:
            lines.append(f"sparkplug: {error}")
        return lines
