"""`lineside run CONFIG`: the daemon in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="lineside.toml")


def run(args: argparse.Namespace) -> int:
    from lineside.daemon import run_daemon

    return run_daemon(args.config)
