"""`lineside run CONFIG`: the daemon in the foreground."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
import tomllib
from contextlib import suppress
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

    with suppress(OSError, ValueError):  # which the validator tells
        if "mqtt" in tomllib.loads(args.config.read_text()):
            from lineside.registry import driver

            driver("sink", "mqtt")  # with paho, which a daemon without a broker does not need
    return run_daemon(plan.result())
