"""`lineside command`: tell the daemon of this box something, by its control socket; the journal notes it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--socket", type=Path, help="control socket of the daemon (default: where the service has it)")
    where.add_argument("--config", type=Path, help="the daemon's lineside.toml, to find its socket")
    parser.add_argument("name", help="such as missed_defect; an unknown one names those that there are")
    parser.add_argument("args", nargs="*", metavar="KEY=VALUE", help="a VALUE that is JSON is taken as such")


def run(args: argparse.Namespace) -> int:
    """0 when it was carried out. Raises ConfigError, RemoteError."""
    from lineside.control import ask, default_socket
    from lineside.errors import ConfigError, RemoteError

    words = [text.partition("=") for text in args.args]
    for key, equals, _ in words:
        if not key or not equals:
            raise ConfigError(f"{key!r}: write KEY=VALUE")
    socket = args.socket
    if args.config is not None:
        from lineside.config import load

        socket = load(args.config).daemon.control_socket
    answer = ask(socket or default_socket(), "tell", name=args.name, args={key: _value(text) for key, _, text in words})
    if not isinstance(answer, dict) or not answer.get("ok"):
        raise RemoteError(f"{args.name}: refused: {answer.get('reason') if isinstance(answer, dict) else answer}")
    print(json.dumps(answer["result"], indent=2))
    return 0


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
