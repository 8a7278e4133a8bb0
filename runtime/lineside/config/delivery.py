"""[journal] and [mqtt] of lineside.toml. `problems` looks at the files that they name, for `lineside check`."""

from __future__ import annotations

import re
import ssl
import string
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PLACES = ("site", "line", "station", "kind", "box")  # what a topic template may name
_BAD = re.compile(r"[+#\x00-\x1f\x7f]")  # wildcards and what no broker takes


class JournalConfig(BaseModel):
    """[journal]: the store in which every decision is before it leaves the box."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(
        None, description="SQLite file; default: journal.db in $STATE_DIRECTORY, else in /var/lib/lineside"
    )
    durable: bool = Field(
        True,
        description="fsync every commit: a power cut loses no published decision; false saves the fsync's time",
    )
    cap_mb: int = Field(1024, ge=16, le=1_000_000, description="size at which delivered rows are pruned, oldest first")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of deliver.journal.Journal."""
        return {"durable": self.durable, "cap_bytes": self.cap_mb * 1_000_000}

    def problems(self) -> list[str]:
        """What keeps the store from working, a complete line each."""
        if self.path is None or not self.path.exists():
            return []
        if not self.path.is_file():
            return [f"journal.path = {str(self.path)!r}: is not a file: name a file, such as .../journal.db"]
        return [*_unreadable("journal.path", self.path)]


class TlsConfig(BaseModel):
    """[mqtt.tls]: give ca_file for a private authority; cert_file and key_file where the broker asks who we are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ca_file: Path | None = Field(None, description="PEM; default: the authorities that this machine trusts")
    cert_file: Path | None = Field(None, description="PEM of this box's certificate, with its chain")
    key_file: Path | None = Field(None, description="PEM of its key, without a passphrase")

    @model_validator(mode="after")
    def _pair(self) -> TlsConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")
        return self


class MqttConfig(BaseModel):
    """[mqtt]: the broker that gets every decision, and under which topics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, max_length=253, description="name or address of the broker")
    port: int | None = Field(None, ge=1, le=65535, description="default: 1883, with [mqtt.tls] 8883")
    protocol: Literal["5", "3.1.1"] = Field(
        "5", description="prefer 5: on 3.1.1 a broker that forbids a topic does not say so"
    )
    box: str | None = Field(None, description="name of this box in its status topic; default: the host name")
    client_id: str | None = Field(None, min_length=1, max_length=128, description="default: lineside-BOX")
    username: str | None = None
    password_file: Path | None = Field(None, description="file whose first line is the password")
    tls: TlsConfig | None = None
    topic: str = Field(
        "lineside/{site}/{line}/{station}/{kind}",
        description="of decisions, events and gaps; {kind} is decision, event or gap; backfill adds /backfill",
    )
    status_topic: str = Field("lineside/{site}/{line}/{box}/status", description="retained; also the last will")
    keepalive_s: int = Field(15, ge=2, le=3600)
    inflight: int = Field(32, ge=2, le=1000, description="messages sent and not yet acknowledged")
    live_max_age_ms: int = Field(
        5000, ge=100, le=3_600_000, description="an older decision goes to .../backfill, marked late"
    )
    live_expiry_s: int | None = Field(
        None, ge=1, description="MQTT 5 message expiry of live messages: older ones reach nobody, not even late"
    )
    backfill_expiry_s: int | None = Field(None, ge=1, description="the same for backfill messages")
    ack_timeout_s: float = Field(10.0, ge=0.5, le=300, description="without an acknowledgement for so long: reconnect")
    settle_s: float = Field(
        2.0,
        ge=0,
        le=60,
        description="what was acknowledged less than this before the connection broke is sent again: "
        "a broker that crashed may have lost it",
    )
    reconnect_min_s: float = Field(0.5, ge=0.05, le=60)
    reconnect_max_s: float = Field(30.0, ge=0.05, le=3600)
    heartbeat_s: float = Field(10.0, ge=1, le=3600, description="how often the retained status is published")

    @field_validator("topic", "status_topic")
    @classmethod
    def _topic_fits(cls, template: str) -> str:
        fault = topic_fault(template)
        if fault:
            raise ValueError(fault)
        return template

    @field_validator("box")
    @classmethod
    def _box_fits(cls, box: str | None) -> str | None:
        if box is not None and (_BAD.search(box) or "/" in box or not box):
            raise ValueError("a topic level may hold no + # / and no control character, and not be empty")
        return box

    @model_validator(mode="after")
    def _fits(self) -> MqttConfig:
        if "{station}" not in self.topic or "{kind}" not in self.topic:
            raise ValueError("topic must name {station} and {kind}: else messages cannot be told apart")
        if "{station}" in self.status_topic or "{kind}" in self.status_topic:
            raise ValueError("status_topic is one per box: it may name {site}, {line} and {box}")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must be at least reconnect_min_s")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs a username")
        return self

    def options(self) -> dict[str, Any]:
        """Keyword arguments of deliver.mqtt.MqttSink."""
        tls = self.tls
        return {
            **self.model_dump(exclude={"tls", "port"}),
            "port": self.port or (8883 if tls else 1883),
            "tls": tls is not None,
            "ca_file": tls.ca_file if tls else None,
            "cert_file": tls.cert_file if tls else None,
            "key_file": tls.key_file if tls else None,
        }

    def problems(self) -> list[str]:
        """Files that cannot be read or used, a complete line each."""
        lines: list[str] = []
        if self.password_file is not None:
            faults = _unreadable("mqtt.password_file", self.password_file)
            if not faults and not self.password_file.read_text(errors="replace").split("\n")[0].strip():
                faults = [f"mqtt.password_file = {str(self.password_file)!r}: its first line is empty"]
            lines += faults
        return lines + (_tls_problems(self.tls) if self.tls else [])


def topic_fault(template: str) -> str | None:
    """What is wrong with a topic template; None when it is fine."""
    try:
        named = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        return f"is no template ({error}): write {{station}} and the like, each brace closed"
    unknown = [name for name in named if name not in PLACES]
    if unknown:
        return f"names {{{unknown[0]}}}; a topic may name {', '.join('{' + place + '}' for place in PLACES)}"
    if _BAD.search(template):
        return "a topic to publish to may hold no + or # and no control character"
    if template.startswith(("$", "/")) or template.endswith("/") or "//" in template or not template:
        return "must not begin with $ or /, end with / or have an empty level"
    return None


def problems(journal: JournalConfig, mqtt: MqttConfig | None) -> list[str]:
    """Every fault of the files that [journal] and [mqtt] name."""
    return journal.problems() + (mqtt.problems() if mqtt else [])


def _unreadable(key: str, path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        remedy = (
            "let the user that lineside runs as read it"
            if isinstance(error, PermissionError)
            else "give the path of a readable file"
        )
        return [f"{key} = {str(path)!r}: cannot be read ({error.strerror}): {remedy}"]
    return []


def _tls_problems(tls: TlsConfig) -> list[str]:
    files = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
    lines = [line for key, path in files.items() if path for line in _unreadable(f"mqtt.tls.{key}", path)]
    if lines:
        return lines
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file:
        try:
            context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError) as error:
            lines.append(f"mqtt.tls.ca_file = {str(tls.ca_file)!r}: holds no PEM certificate ({_short(error)})")
        else:
            lines += _outdated("mqtt.tls.ca_file", tls.ca_file)
    if tls.cert_file and tls.key_file:
        try:
            # an empty passphrase instead of a question on the terminal
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (ssl.SSLError, OSError) as error:
            pair = f"mqtt.tls.cert_file = {str(tls.cert_file)!r} with key_file = {str(tls.key_file)!r}"
            lines.append(f"{pair}: cannot be used ({_short(error)}): give a PEM certificate and its own PEM key")
        else:
            lines += _outdated("mqtt.tls.cert_file", tls.cert_file)
    return lines


def _outdated(key: str, path: Path) -> list[str]:
    decode = getattr(getattr(ssl, "_ssl", None), "_test_decode_cert", None)  # the standard library has no public way
    if decode is None:
        return []
    try:
        dates: dict[str, str] = decode(str(path))
    except (ssl.SSLError, OSError, ValueError):
        return []
    if ssl.cert_time_to_seconds(dates["notAfter"]) < time.time():
        return [f"{key} = {str(path)!r}: expired on {dates['notAfter']}: renew the certificate (or set the clock)"]
    if ssl.cert_time_to_seconds(dates["notBefore"]) > time.time():
        return [f"{key} = {str(path)!r}: is valid only from {dates['notBefore']}: set the clock, or wait"]
    return []


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()
