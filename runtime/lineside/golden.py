"""The golden self-test: before a model decides on a box, it must answer its golden pictures right on that very box."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from lineside.errors import ConfigError
from lineside.hal.board import read
from lineside.hal.fingerprint import facts, fingerprint
from lineside.images import read_image
from lineside.recipe import Model, findings_of
from lineside.records import Image, Seen
from lineside.registry import driver
from lineside.store import golden
from lineside.store.bundle import Bundle
from lineside.store.found import Found

_log = logging.getLogger(__name__)

_SHOWN = 5  # differences that an error names


def differences(bundle: Bundle, file: str, see: Callable[[Image], Seen], min_score: float) -> list[str]:
    """Run every golden picture through `see`, which drops findings below `min_score`; a line for each difference.

    `file` names the artefact that runs. Raises ConfigError for a damaged bundle, DeviceError.
    """
    if bundle.golden is None:
        return []
    lines = []
    for case in bundle.golden.cases:
        seen = see(read_image(golden.picture(bundle.folder, case)))
        found = findings_of(seen, bundle.labels)
        lines += golden.differences(case, file, found, bundle.task, bundle.golden, min_score)
    return lines


def prove(model: Model, bundle: Bundle, state_dir: Path) -> None:
    """Run the test unless this model, file and device have passed it on this box. Raises ConfigError when it fails."""
    if bundle.golden is None:
        return
    file = Path(model.artefact.path).name
    packages = driver("backend", model.backend.partition(":")[0]).packages
    passed = _Passed(state_dir, bundle.digest, fingerprint(facts(read(), packages)))
    key = f"{file} on {model.backend}"
    if key in passed.keys:
        return
    found = differences(bundle, file, model.see, model.settings.min_score)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"bundle {bundle.folder}: {key} gives wrong answers to its golden pictures: {'; '.join(found[:_SHOWN])}"
            f"{more}: choose another backend for the station, or mend the runtime; `lineside bundle verify` shows all"
        )
    _log.info("%s %s: %s answers its %d golden pictures", bundle.name, bundle.version, key, len(bundle.golden.cases))
    passed.add(key)


class _Passed:
    """What passed, kept in the state folder by digest and fingerprint. A file that cannot be read or written only
    costs the next start the test."""

    def __init__(self, state_dir: Path, digest: str, fingerprint: str) -> None:
        self._found = Found(state_dir, digest, fingerprint)
        kept = self._found.read().get("golden")
        self.keys = [key for key in kept if isinstance(key, str)] if isinstance(kept, list) else []

    def add(self, key: str) -> None:
        self.keys.append(key)
        try:
            self._found.put(golden=self.keys)
        except OSError as error:
            _log.warning("%s: cannot be written (%s): the next start tries again", self._found.path, error.strerror)
