"""What a daemon will run: configuration, device profile and bundles, read and checked before anything is opened.

`make_plan` runs in a child of the daemon (lineside.apart), so that the validator and its schemas are never part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lineside.config import Config, load
from lineside.hal.board import read
from lineside.hal.profile import Profile, find, match
from lineside.store.bundle import Bundle, open_bundle


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a user wrote, valid. Picklable."""

    config: Config
    profile: Profile
    bundles: dict[str, Bundle]  # by the name of the station


def make_plan(path: Path) -> Plan:
    """Raises ConfigError with one line per fault."""
    config = load(path)
    profile = find(config.daemon.profile) if config.daemon.profile else match(read())
    opened = {name: open_bundle(name) for name in dict.fromkeys(s.bundle for s in config.stations.values())}
    return Plan(config, profile, {name: opened[station.bundle] for name, station in config.stations.items()})
