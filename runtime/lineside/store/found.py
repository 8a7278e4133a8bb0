"""What this box found out about a bundle: golden pictures that passed, parity, the tuning plan; in the state folder.

One JSON file, models/<digest>/<fingerprint>.json: what was found with other runtimes or drivers is not asked any more.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class Found:
    """One file of it, an object by key: "golden", "parity", "plan", "facts" (what the fingerprint is made of)."""

    def __init__(self, state_dir: Path, digest: str, fingerprint: str) -> None:
        self.path = folder(state_dir, digest) / f"{fingerprint}.json"

    def read(self) -> dict[str, Any]:
        """All of it; empty where nothing is kept, or where the file is broken, which a warning says."""
        return _read(self.path)

    def put(self, **found: object) -> None:
        """Keep these keys beside the others. Raises OSError."""
        text = json.dumps({**_read(self.path), **found})
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text)
            part.replace(self.path)
        except OSError:
            with suppress(OSError):
                part.unlink()
            raise


def folder(state_dir: Path, digest: str) -> Path:
    """Where everything about a bundle is kept."""
    return state_dir / "models" / digest.removeprefix("sha256:")[:16]


def everything(state_dir: Path, digest: str) -> Iterator[dict[str, Any]]:
    """Each file about a bundle, whatever runtimes and drivers it is of, the newest first."""
    with suppress(OSError):
        paths = list(folder(state_dir, digest).glob("*.json"))
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
            yield _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        kept = json.loads(path.read_text())
        if not isinstance(kept, dict):
            raise ValueError("no JSON object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s: cannot be used (%s): what it held is found out again", path, error)
        return {}
    return kept
