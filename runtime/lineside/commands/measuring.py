"""What `lineside parity` and `lineside tune` share: where things are kept, the reference, and progress."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lineside.hal.profile import Profile
    from lineside.proof import Prover
    from lineside.records import Artefact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bundle", required=True, metavar="DIR", help="folder of a bundle, or a shipped one's name")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of pictures; default: the golden pictures")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="the model in FP32, .onnx, .tflite or .xml")
    parser.add_argument(
        "--backend", action="append", default=[], metavar="NAME", help="NAME or NAME:DEVICE; default: all that are here"
    )
    parser.add_argument("--profile", metavar="NAME", help="device profile; default: the one that fits this board")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--state-dir", type=Path, metavar="DIR", help="default: where the service has it")
    where.add_argument("--config", type=Path, help="the daemon's lineside.toml, to find that and the profile")
    parser.add_argument("--json", action="store_true", help="one JSON object")


class Places(NamedTuple):
    """Where what is found out goes, and the profile that `run` would use."""

    state_dir: Path
    cache_dir: Path
    profile: Profile


def places(args: argparse.Namespace) -> Places:
    """Raises ConfigError for what does not exist, and where the state folder cannot be written: before the work."""
    from lineside.hal import board, profile

    state_dir = args.state_dir or Path(os.environ.get("STATE_DIRECTORY") or "/var/lib/lineside")
    cache_dir = Path(os.environ.get("CACHE_DIRECTORY") or state_dir / "cache")
    name = args.profile
    if args.config is not None:
        from lineside.config import load
        from lineside.delivery import cache_folder, state_folder

        config = load(args.config)
        state_dir, cache_dir, name = state_folder(config), cache_folder(config), name or config.daemon.profile
    _check_writable(state_dir / "models")
    return Places(state_dir, cache_dir, profile.find(name) if name else profile.match(board.read()))


def _check_writable(folder: Path) -> None:
    from lineside.errors import ConfigError

    probe = folder / f".{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"state folder {folder.parent}: cannot be written ({error.strerror}): what is measured is kept there for "
            "`lineside run`: name it with --state-dir or --config, or run this as the service's user"
        ) from error


def reference(path: Path | None) -> Artefact | None:
    """The file of --reference. Raises ConfigError where it is none, or not FP32."""
    if path is None:
        return None
    from dataclasses import replace

    from lineside.commands.model_facts import read_facts
    from lineside.errors import ConfigError
    from lineside.store.bundle import sha256_of

    facts = read_facts(path)
    if facts.precision != "fp32":
        raise ConfigError(f"--reference {path}: is {facts.precision}: name the FP32 model that the others came from")
    return replace(facts.artefact, path=str(path.resolve()), sha256=sha256_of(path))


def prover(state_dir: Path | None = None) -> Prover:
    """What keeps a command from answers that are wrong on this box. `state_dir`: where the daemon keeps what it found
    out; without it, or where this user may not write there, a folder of the user's own is taken."""
    from lineside.proof import Prover, state_folder

    folder = state_dir if state_dir is not None and os.access(state_dir, os.W_OK) else state_folder()
    cache_dir = os.environ.get("CACHE_DIRECTORY")
    return Prover(folder, Path(cache_dir) if cache_dir else folder / "cache" if folder else None)


def progress(what: str, done: int, of: int) -> None:
    """One line that changes, where a person looks."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}: {done} of {of}", end="\n" if done == of else "", file=sys.stderr, flush=True)


def prepare() -> None:
    """This process measures, and gives way to a daemon that decides: where memory ends, it is this one that goes."""
    import cv2

    cv2.setNumThreads(1)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:  # a sandbox forbids it
        return
