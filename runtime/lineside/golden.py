"""The golden self-test: runs a bundle's golden pictures through a model, and tells where its answers differ."""

from __future__ import annotations

from collections.abc import Callable

from lineside.images import read_image
from lineside.recipe import findings_of
from lineside.records import Image, Seen
from lineside.store import golden
from lineside.store.bundle import Bundle


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
