"""A file of a bundle, opened to find out whether the bundle reads it right: what `bundle new` and `compare` look with.

Unlike `infer` it proves no golden pictures, since the question here is what the answers should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from lineside.commands.model_facts import RUNTIMES
from lineside.commands.signs import Look
from lineside.contracts import Backend, Decoder
from lineside.errors import ConfigError
from lineside.records import Artefact, Detections, Image, InputSpec, Placement, Seen, Tensor
from lineside.registry import VENDORS, driver
from lineside.store.bundle import Bundle
from lineside.vision.decode import open_decoder
from lineside.vision.prepare import Prepare

_GREY = (480, 640, 3)
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
_MOST = 10_000  # findings, where every candidate is counted


class Looker:
    """One artefact on one backend, read as its bundle says: picture -> what the model saw."""

    def __init__(self, bundle: Bundle, artefact: Artefact, backend: str = "auto") -> None:
        """`backend` auto: the first runtime for the file's format that is installed.

        Raises ConfigError when there is none, it cannot run the file, or the outputs don't fit the decoder.
        """
        self.bundle, self.artefact = bundle, artefact
        self.settings = bundle.settings
        self.least = 0.0
        self.unproven = ""  # whoever looks at the drawings says whether the answers are right
        spec = bundle.input_for(artefact)
        self._runtime: Backend
        self._runtime, self.backend = open_artefact(artefact, spec, backend)
        try:
            self._decoder = self._decoder_at(spec, bundle)
            every = replace(bundle.settings, min_score=0.0, nms_iou=1.0, max_findings=_MOST)
            self._all = self._decoder_at(spec, replace(bundle, settings=every))
        except ConfigError:
            self.close()
            raise
        self._prepare = Prepare(spec)

    def see(self, image: Image) -> tuple[Seen, Placement]:
        """Raises ConfigError when the outputs have other shapes than the decoder takes, or DeviceError."""
        canvas, placement, window = self._prepare.put(image)
        return self._decode(self._decoder, self._runtime.infer(canvas, window=window), placement), placement

    def look(self, name: str, image: Image) -> tuple[Look, Placement]:
        """As `see`, with the candidates before suppression counted."""
        canvas, placement, window = self._prepare.put(image)
        outputs = self._runtime.infer(canvas, window=window)
        seen = self._decode(self._decoder, outputs, placement)
        if not isinstance(seen, Detections):
            return Look(name, seen), placement
        every = self._decode(self._all, outputs, placement)
        assert isinstance(every, Detections)
        above = int((every.scores >= self.settings.min_score).sum())
        return Look(name, seen, above, len(every.scores)), placement

    def close(self) -> None:
        self._runtime.close()

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _decoder_at(self, spec: InputSpec, bundle: Bundle) -> Decoder:
        return open_decoder(bundle.decode, self._runtime.outputs, bundle.labels, spec, bundle.settings)

    def _decode(self, decoder: Decoder, outputs: tuple[Tensor, ...], placement: Placement) -> Seen:
        try:
            return decoder.decode(outputs, placement)
        except (IndexError, ValueError, TypeError) as error:
            raise unfit(Path(self.artefact.path), self.bundle.decode, outputs, error) from error


def unfit(path: Path, decode: str, outputs: Sequence[Tensor], error: Exception) -> ConfigError:
    """A decoder that took the outputs' shapes as the file says them could not read what came."""
    came = ", ".join(f"{each.name} {each.raw.dtype} {list(each.raw.shape)}" for each in outputs)
    batch = "" if all(each.raw.shape[:1] == (1,) for each in outputs) else ", whose first size is no batch of 1"
    return ConfigError(
        f"{path}: the decoder {decode} cannot read its outputs {came}{batch} ({error}): say --decode NAME for another "
        "family (docs/models.md), or export the model with outputs that begin with a batch of 1"
    )


def open_once(bundle: Bundle) -> list[str]:
    """Opens each file of a packed bundle on a runtime and runs it on a grey picture, all the way to the findings.

    Gives a line for each that no runtime here can open. Raises ConfigError or DeviceError for one that fails.
    """
    lines = []
    for artefact in bundle.artefacts:
        if missing := _missing(artefact):
            lines.append(f"{Path(artefact.path).name}: not opened here: {missing}")
            continue
        with Looker(bundle, artefact) as looker:
            looker.see(np.full(_GREY, 127, np.uint8))
    return lines


def runnable(bundle: Bundle) -> Artefact:
    """The first file of the bundle that a runtime here can open. Raises ConfigError when there is none."""
    missing = []
    for artefact in bundle.artefacts:
        why = _missing(artefact)
        if not why:
            return artefact
        missing.append(f"{Path(artefact.path).name}: {why}")
    raise ConfigError(f"bundle {bundle.folder}: no file of it runs here:", *missing)


def _missing(artefact: Artefact) -> str:
    """Why no runtime for this format is here; "" where one is."""
    if artefact.format == "edgetpu":
        return "it runs on an Edge TPU only"
    if list(_here(artefact)):
        return ""
    packages = (VENDORS[_PACKAGES[name]] for name in RUNTIMES[artefact.format])
    return "no runtime for it is installed: " + " or ".join(packages)


def open_artefact(artefact: Artefact, spec: InputSpec, backend: str = "auto") -> tuple[Backend, str]:
    """The file on a backend, and what that is called. Raises ConfigError or DeviceError."""
    name, _, device = backend.partition(":")
    if name == "auto":
        here = list(_here(artefact))
        if not here:
            raise ConfigError(f"{artefact.path}: {_missing(artefact)}")
        name = here[0]
    opened: Backend = driver("backend", name)(artefact, spec, **({"device": device} if device else {}))
    return opened, f"{name}:{opened.device}"


def _here(artefact: Artefact) -> Iterator[str]:
    """The runtimes for this format that are installed, the format's own first."""
    from lineside.hal.choose import installed

    found = set(installed())
    yield from (name for name in RUNTIMES.get(artefact.format, ()) if name in found)
