"""`lineside run CONFIG`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="lineside.toml")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until the daemon has something to finish
    gc.disable()  # imports leave next to no garbage; the daemon turns it on

    from lineside.apart import Apart
    from lineside.plan import make_plan

    plan = Apart(make_plan, args.config)

    from lineside.daemon import run_daemon  # meanwhile: NumPy and OpenCV take as long as the validator

    return run_daemon(plan.result())
