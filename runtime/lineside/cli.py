"""The command line: each command calls one function of lineside.commands; only the chosen one is imported."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from lineside import __version__
from lineside.errors import EXIT_CONFIG, ConfigError, LinesideError

# name -> (module under lineside.commands, what `lineside --help` says)
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "the daemon in the foreground: what the systemd unit starts"),
    "check": ("check", "validate a configuration without hardware, or print its JSON Schema"),
    "init": ("init", "write a first commented configuration, by asking or by flags"),
    "probe": ("probe", "this board, its profile, and which backends and devices are here"),
    "bundle": ("bundle", "make a model bundle out of a model, or show one"),
    "quantize": ("quantize", "make INT8 files of a float model, measured on your pictures, and pack them as a bundle"),
    "infer": ("infer", "run a bundle on images or videos"),
    "bench": ("bench", "measure a bundle on this device against a bare runtime loop"),
    "parity": ("parity", "how far each backend and file of a bundle is from its FP32 reference"),
    "tune": ("tune", "measure backends, files and threads on this device, and pin the best for `run`"),
    "snapshot": ("snapshot", "a camera's picture with zones and lines drawn, to aim it by"),
    "status": ("status", "what a running daemon is doing, counters included"),
    "missed": ("missed", "save a running daemon's last frames: it let a defect pass"),
    "evidence": ("evidence", "list and verify what is kept of decisions; keys for frames with faces"),
    "replay": ("replay", "a decision again from its evidence, or what another model would have decided"),
    "doctor": ("doctor", "examine what lies between this box and a subscriber: `lineside doctor broker CONFIG`"),
    "command": ("command", "tell a running daemon something, such as that a defect was missed"),
    "ledger": ("ledger", "prove that the journal is what was written, or find what was changed"),
    "subscribe": ("subscribe", "print and validate the messages of an MQTT broker"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status: 0, 1 when it failed, 78 when the configuration is at fault."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins costs 10 to 30 ms of a start
    if words and words[0] in COMMANDS:
        module_name, summary = COMMANDS[words[0]]
        module = importlib.import_module(f"lineside.commands.{module_name}")
        parser = argparse.ArgumentParser(prog=f"lineside {words[0]}", description=summary)
        module.add_arguments(parser)
        return _call(module.run, parser.parse_args(words[1:]))
    _top_parser().parse_args(words or ["--help"])
    return 0


def _call(run: object, args: argparse.Namespace) -> int:
    assert callable(run)
    try:
        return int(run(args))
    except ConfigError as error:
        for line in error.lines:
            print(f"lineside: {line}", file=sys.stderr)
        return EXIT_CONFIG
    except LinesideError as error:
        print(f"lineside: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed again while the interpreter ends
        return 130
    except BrokenPipeError:  # the reader of our output went away, as in `lineside infer ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="lineside",
        description="Camera frames in, decisions out: the edge inference runtime for production lines.",
        epilog=f"commands:\n{listing}\n\n`lineside COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lineside {__version__}")
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
