"""`lineside check CONFIG`: everything that can be validated without hardware; `--schema` for editors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lineside.errors import EXIT_CONFIG, ConfigError

if TYPE_CHECKING:
    from lineside.config.stations import StationConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="lineside.toml")
    what.add_argument("--schema", action="store_true", help="print the JSON Schema of lineside.toml, for editors")


def run(args: argparse.Namespace) -> int:
    from lineside import config

    if args.schema:
        print(config.schema())
        return 0
    faults = problems(args.config)
    for line in faults:
        print(line, file=sys.stderr)
    if faults:
        return EXIT_CONFIG
    print(f"{args.config}: valid")
    return 0


def problems(path: Path) -> list[str]:
    """Every fault of a configuration file, a complete line each; empty when it is valid."""
    from lineside import config
    from lineside.config import delivery
    from lineside.hal.profile import find
    from lineside.registry import driver

    try:
        tree = config.load(path)
    except ConfigError as error:
        return list(error.lines)
    faults = delivery.problems(tree.journal, tree.mqtt)
    faults += tree.evidence.problems() if tree.evidence is not None else []
    if tree.sparkplug is not None:
        faults += tree.sparkplug.problems()
    for key, folder in (("state_dir", tree.daemon.state_dir), ("cache_dir", tree.daemon.cache_dir)):
        if folder is not None and folder.exists() and not folder.is_dir():
            faults.append(f"daemon.{key} = {str(folder)!r}: is not a folder: name one that lineside may write")
    if tree.daemon.profile is not None:
        try:
            find(tree.daemon.profile)
        except ConfigError as error:
            faults += [f"daemon.profile: {line}" for line in error.lines]
    for name, camera in tree.cameras.items():
        try:
            driver("camera", camera.driver)(**camera.options())
        except ConfigError as error:
            faults += [f"cameras.{name}.{line}" for line in error.lines]
    for name, station in tree.stations.items():
        faults += _station_problems(name, station)
    return [f"{path}: {line}" for line in faults]


def _station_problems(name: str, station: StationConfig) -> list[str]:
    from lineside.config.stations import problems as label_problems
    from lineside.recipe import logic
    from lineside.registry import names
    from lineside.store.bundle import open_bundle

    faults = []
    known = names("backend")
    if station.backend not in ("auto", *known):
        faults.append(f"stations.{name}.backend = {station.backend!r}: allowed are auto, {', '.join(known)}")
    for entry in station.fallback:
        backend, _, device = entry.partition(":")
        if backend not in known or not device:
            faults.append(
                f'stations.{name}.fallback = {entry!r}: write "backend:device", such as "openvino:cpu"; '
                f"backends are {', '.join(known)}"
            )
    try:
        bundle = open_bundle(station.bundle)
    except ConfigError as error:
        return faults + [f"stations.{name}.bundle: {line}" for line in error.lines]
    faults += label_problems(name, station, bundle.labels, bundle.task)
    try:
        logic(name, station, 640, 360)
    except ConfigError as error:
        faults += [f"stations.{name}: {line}" for line in error.lines]
    return faults
