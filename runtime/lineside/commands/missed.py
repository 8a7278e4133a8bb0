"""`lineside missed`: save the last frames of a running daemon as labelled evidence of a defect that it did not see."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="the daemon's lineside.toml")
    where.add_argument("--socket", type=Path, help="its control socket (default: where the service has it)")
    parser.add_argument("--camera", metavar="NAME", help="one camera only (default: all)")
    parser.add_argument("--note", default="", metavar="TEXT", help="what you saw")


def run(args: argparse.Namespace) -> int:
    """0 when every station's frames are being saved. Raises RemoteError."""
    from lineside.control import ask, default_socket
    from lineside.errors import RemoteError

    socket = args.socket
    if args.config is not None:
        from lineside.config import load

        socket = load(args.config).daemon.control_socket
    words = {"camera": args.camera, "note": args.note}
    reply = ask(socket or default_socket(), "tell", name="missed_defect", args=words)
    assert isinstance(reply, dict)
    if not reply["ok"]:
        raise RemoteError(f"missed defect: {reply['reason']}")
    answer = reply["result"]
    for station, saved in answer.items():
        if saved["saved"]:
            print(f"{station}: {saved['frames']} frames are being saved as {saved['id']}")
        elif saved["frames"]:
            print(f"{station}: an earlier call is still being saved: try again in a moment")
        else:
            print(f"{station}: no frame has come yet")
    return 0 if answer and all(saved["saved"] for saved in answer.values()) else 1
