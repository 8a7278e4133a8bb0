"""[journal], [ledger] and [mqtt] of lineside.toml. `problems` looks at the files they name, for `lineside check`."""

from __future__ import annotations

import re
import string
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from lineside.checked import Check, Is, Table, table

PLACES = ("site", "line", "station", "kind", "box")  # what a topic template may name
_BAD = re.compile(r"[+#\x00-\x1f\x7f]")  # wildcards and what no broker takes


@table
class JournalConfig(Table):
    """[journal]: the store in which every decision is before it leaves the box."""

    path: Annotated[
        Path | None, Is("SQLite file; default: journal.db in $STATE_DIRECTORY, else in /var/lib/lineside")
    ] = None
    durable: Annotated[
        bool, Is("fsync every commit: a power cut loses no published decision; false saves the fsync's time")
    ] = True
    cap_mb: Annotated[int, Is("size at which delivered rows are pruned, oldest first", ge=16, le=1_000_000)] = 1024

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


@table
class LedgerConfig(Table):
    """[ledger]: signed checkpoints of the journal's hash chain."""

    checkpoint_s: Annotated[
        float, Is("how often one is signed and published, if anything was added", ge=1, le=86400)
    ] = 60.0


@table
class TlsConfig(Table):
    """[mqtt.tls]: give ca_file for a private authority; cert_file and key_file where the broker asks who we are."""

    ca_file: Annotated[Path | None, Is("PEM; default: the authorities that this machine trusts")] = None
    cert_file: Annotated[Path | None, Is("PEM of this box's certificate, with its chain")] = None
    key_file: Annotated[Path | None, Is("PEM of its key, without a passphrase")] = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together: give both or neither")


def _topic(template: str) -> str:
    if fault := topic_fault(template):
        raise ValueError(fault)
    return template


def _topic_level(name: str) -> str:
    if _BAD.search(name) or "/" in name or not name:
        raise ValueError("a topic level may hold no + # / and no control character, and not be empty")
    return name


@table
class MqttConfig(Table):
    """[mqtt]: the broker that gets every decision, and under which topics."""

    host: Annotated[str, Is("name or address of the broker", min_length=1, max_length=253)]
    port: Annotated[int | None, Is("default: 1883, with [mqtt.tls] 8883", ge=1, le=65535)] = None
    protocol: Annotated[
        Literal["5", "3.1.1"], Is("prefer 5: on 3.1.1 a broker that forbids a topic does not say so")
    ] = "5"
    box: Annotated[
        Annotated[str, Check(_topic_level)] | None, Is("name of this box in its status topic; default: the host name")
    ] = None
    client_id: Annotated[str | None, Is("default: lineside-BOX", min_length=1, max_length=128)] = None
    username: str | None = None
    password_file: Annotated[Path | None, Is("file whose first line is the password")] = None
    tls: TlsConfig | None = None
    topic: Annotated[
        str,
        Check(_topic),
        Is("of decisions, events and other records; {kind} is decision, event, gap ...; backfill adds /backfill"),
    ] = "lineside/{site}/{line}/{station}/{kind}"
    status_topic: Annotated[str, Check(_topic), Is("retained; also the last will")] = (
        "lineside/{site}/{line}/{box}/status"
    )
    keepalive_s: Annotated[int, Is(ge=2, le=3600)] = 15
    inflight: Annotated[int, Is("messages sent and not yet acknowledged", ge=2, le=1000)] = 32
    live_max_age_ms: Annotated[int, Is("an older decision goes to .../backfill, marked late", ge=100, le=3_600_000)] = (
        5000
    )
    live_expiry_s: Annotated[
        int | None, Is("MQTT 5 message expiry of live messages: older ones reach nobody, not even late", ge=1)
    ] = None
    backfill_expiry_s: Annotated[int | None, Is("the same for backfill messages", ge=1)] = None
    ack_timeout_s: Annotated[float, Is("without an acknowledgement for so long: reconnect", ge=0.5, le=300)] = 10.0
    settle_s: Annotated[
        float,
        Is(
            "what was acknowledged less than this before the connection broke is sent again: "
            "a broker that crashed may have lost it",
            ge=0,
            le=60,
        ),
    ] = 2.0
    reconnect_min_s: Annotated[float, Is(ge=0.05, le=60)] = 0.5
    reconnect_max_s: Annotated[float, Is(ge=0.05, le=3600)] = 30.0
    heartbeat_s: Annotated[float, Is("how often the retained status is published", ge=1, le=3600)] = 10.0
    health_topic: Annotated[str, Check(_topic), Is("retained: all numbers of docs/metrics.md")] = (
        "lineside/{site}/{line}/{box}/health"
    )
    health_s: Annotated[float, Is("how often they are published", ge=1, le=3600)] = 30.0

    def __post_init__(self) -> None:
        if "{station}" not in self.topic or "{kind}" not in self.topic:
            raise ValueError("topic must name {station} and {kind}: else messages cannot be told apart")
        for key, template in (("status_topic", self.status_topic), ("health_topic", self.health_topic)):
            if "{station}" in template or "{kind}" in template:
                raise ValueError(f"{key} is one per box: it may name {{site}}, {{line}} and {{box}}")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("reconnect_max_s must be at least reconnect_min_s")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file needs a username")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of deliver.mqtt.MqttSink."""
        tls = self.tls
        return {
            **self.values(without=("tls", "port", "health_topic", "health_s")),
            "port": self.port or (8883 if tls else 1883),
            "tls": tls is not None,
            "ca_file": tls.ca_file if tls else None,
            "cert_file": tls.cert_file if tls else None,
            "key_file": tls.key_file if tls else None,
        }

    def problems(self) -> list[str]:
        """Files that cannot be read or used, a complete line each."""
        return file_problems("mqtt", self.password_file, self.tls)


def file_problems(table: str, password_file: Path | None, tls: TlsConfig | None) -> list[str]:
    """Faults of the files that a broker's table names."""
    lines: list[str] = []
    if password_file is not None:
        faults = _unreadable(f"{table}.password_file", password_file)
        if not faults and not password_file.read_text(errors="replace").split("\n")[0].strip():
            faults = [f"{table}.password_file = {str(password_file)!r}: its first line is empty"]
        lines += faults
    return lines + (_tls_problems(tls, f"{table}.tls") if tls else [])


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


def _tls_problems(tls: TlsConfig, table: str) -> list[str]:
    import ssl

    files = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
    lines = [line for key, path in files.items() if path for line in _unreadable(f"{table}.{key}", path)]
    if lines:
        return lines
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca_file:
        try:
            context.load_verify_locations(tls.ca_file)
        except (ssl.SSLError, OSError) as error:
            lines.append(f"{table}.ca_file = {str(tls.ca_file)!r}: holds no PEM certificate ({_short(error)})")
        else:
            lines += _outdated(f"{table}.ca_file", tls.ca_file)
    if tls.cert_file and tls.key_file:
        try:
            # an empty passphrase instead of a question on the terminal
            context.load_cert_chain(tls.cert_file, tls.key_file, password="")
        except (ssl.SSLError, OSError) as error:
            pair = f"{table}.cert_file = {str(tls.cert_file)!r} with key_file = {str(tls.key_file)!r}"
            lines.append(f"{pair}: cannot be used ({_short(error)}): give a PEM certificate and its own PEM key")
        else:
            lines += _outdated(f"{table}.cert_file", tls.cert_file)
    return lines


def _outdated(key: str, path: Path) -> list[str]:
    import ssl

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
