"""lineside.toml, checked: `load` gives a Config or a ConfigError with one complete line per fault."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from lineside.checked import Is, Table, table
from lineside.config.cameras import CameraConfig
from lineside.config.commands import CommandsConfig
from lineside.config.delivery import JournalConfig, LedgerConfig, MqttConfig
from lineside.config.evidence import EvidenceConfig
from lineside.config.metrics import MetricsConfig
from lineside.config.sparkplug import SparkplugConfig
from lineside.config.stations import Name, StationConfig


@table
class DaemonConfig(Table):
    """The process itself."""

    control_socket: Annotated[
        Path | None, Is("Unix socket of `lineside status`; default: $RUNTIME_DIRECTORY/control.sock")
    ] = None
    state_dir: Annotated[
        Path | None, Is("Journal and what this box finds out; default: $STATE_DIRECTORY, else /var/lib/lineside")
    ] = None
    cache_dir: Annotated[Path | None, Is("Compiled engines; default: $CACHE_DIRECTORY, else state_dir/cache")] = None
    log_level: Annotated[str, Is(pattern="^(debug|info|warning|error)$")] = "info"
    log_decisions: Annotated[bool, Is("One log line a decision, with its id")] = True
    profile: Annotated[str | None, Is("Device profile to use instead of the one that matches the board")] = None


@table
class Config(Table):
    """The whole of lineside.toml."""

    site: Name = "site"
    line: Name = "line"
    daemon: DaemonConfig = field(default_factory=DaemonConfig)
    cameras: Annotated[dict[Name, CameraConfig], Is(min_length=1)]
    stations: Annotated[dict[Name, StationConfig], Is(min_length=1)]
    journal: JournalConfig = field(default_factory=JournalConfig)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    mqtt: MqttConfig | None = None
    evidence: EvidenceConfig | None = None
    commands: CommandsConfig = field(default_factory=CommandsConfig)
    sparkplug: SparkplugConfig | None = None
    metrics: MetricsConfig | None = None

    def __post_init__(self) -> None:
        for name, station in self.stations.items():
            if station.camera not in self.cameras:
                known = ", ".join(self.cameras)
                raise ValueError(f"@stations.{name}.camera = {station.camera!r}: no such camera; [cameras] has {known}")
        if self.sparkplug is not None and (fault := self.sparkplug.fault(self.stations, self.mqtt)):
            raise ValueError(fault)


# What reads and checks is imported when it is asked for: the daemon gets its Config from a child that has exited.


def load(path: Path) -> Config:
    """Read and validate a configuration file; raises ConfigError. Relative paths in it count from its folder."""
    from lineside.config import reading

    return reading.load(path)


def parse(tree: dict[str, Any], origin: str = "configuration") -> Config:
    """Validate a parsed tree; `origin` opens every line of the ConfigError."""
    from lineside.config import reading

    return reading.parse(tree, origin)


def schema() -> str:
    """JSON Schema (draft 2020-12) of lineside.toml, for editors."""
    from lineside.config import reading

    return reading.schema()
