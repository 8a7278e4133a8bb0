"""`lineside status`: what a running daemon is doing."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, help="control socket of the daemon (default: where the service has it)")
    where.add_argument("--config", type=Path, help="the daemon's lineside.toml, to find its socket")
    parser.add_argument("--json", action="store_true", help="the whole answer as one JSON object")


def run(args: argparse.Namespace) -> int:
    from lineside.control import ask, default_socket

    socket = args.socket
    if args.config is not None:
        from lineside.config import load

        socket = load(args.config).daemon.control_socket
    answer = ask(socket or default_socket(), "status")
    if args.json:
        print(json.dumps(answer, indent=2))
    else:
        _show(answer, "")
    return 0


def _show(node: object, indent: str) -> None:
    """Print nested tables as indented `key: value` lines."""
    if not isinstance(node, dict):
        print(f"{indent}{node}")
        return
    width = max((len(str(key)) for key, value in node.items() if not isinstance(value, dict)), default=0)
    for key, value in node.items():
        if isinstance(value, dict) and value:
            print(f"{indent}{key}")
            _show(value, indent + "  ")
        else:
            shown = "-" if value in ("", None, {}, []) else value
            print(f"{indent}{key + ':':<{width + 1}} {shown}")
