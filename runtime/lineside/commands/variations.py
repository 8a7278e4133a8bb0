"""Other ways to read a model, and the search for those that give the exporter's own answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lineside.commands.answers import Answer, Gap, gap, together
from lineside.contracts import Backend
from lineside.errors import ConfigError
from lineside.records import Artefact, DecodeSettings, Image, InputSpec, Placement, Seen, Tensor
from lineside.store.bundle import Bundle
from lineside.vision.decode import fitting, open_decoder
from lineside.vision.prepare import Prepare

_NORMALISATIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("--mean 0 --std 255", (0.0,) * 3, (255.0,) * 3),
    ("--mean 0 --std 1", (0.0,) * 3, (1.0,) * 3),
    ("--mean 127.5 --std 127.5", (127.5,) * 3, (127.5,) * 3),
    ("--mean 127 --std 128", (127.0,) * 3, (128.0,) * 3),
    ("--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ("--mean 103.53,116.28,123.675 --std 57.375,57.12,58.395", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)),
    (
        "--mean 122.771,116.746,104.094 --std 68.501,66.632,70.323",  # CLIP
        (122.771, 116.746, 104.094),
        (68.501, 66.632, 70.323),
    ),
)
_FILTERS = ("linear", "area", "antialias", "bicubic")
_RESIZES = ("letterbox", "letterbox_top_left", "stretch", "center_crop")
_DECODINGS: dict[str, tuple[Any, ...]] = {
    "boxes": ("pixels", "unit"),
    "scores": ("probability", "logit", "sigmoid", "softmax"),
    "box_format": ("xyxy", "cxcywh", "xywh", "yxyx"),
    "first_class": (0, 1),
    "nms_iou": (0.45, 0.5, 0.6, 0.65, 0.7),
}
_STAGES = {
    "resize": "the resize",
    "pad": "the value of the bars",
    "color": "the colour order",
    "normalisation": "the normalisation",
    "filter": "the filter of the resize",
    "decode": "the decoder",
    "boxes": "the unit of the boxes",
    "scores": "what the scores are",
    "box_format": "the format of the boxes",
    "first_class": "the number of the first class",
    "nms_iou": "the suppression of overlapping boxes",
}
_MOST_AT_ONCE = 3
_BEAM = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """How a bundle reads its model, and which options make it so: (stage, option) each."""

    input: InputSpec
    decode: str
    settings: DecodeSettings
    options: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        return " ".join(option for _, option in self.options)

    @property
    def difference(self) -> str:
        return " and ".join(_STAGES[stage] for stage, _ in self.options)


@dataclass(frozen=True, slots=True)
class Tried:
    reading: Reading
    gap: Gap


class Views:
    """The pictures of the exporter's answers through any reading. Keeps a runtime open for each normalisation."""

    def __init__(self, bundle: Bundle, artefact: Artefact, open_: Any) -> None:
        """`open_`: (artefact, input) -> Backend."""
        self._bundle, self._artefact, self._open = bundle, artefact, open_
        self._runtimes: dict[InputSpec, Backend] = {}
        self._kept: tuple[InputSpec, Sequence[Image], list[tuple[tuple[Tensor, ...], Placement]]] | None = None

    def see(self, reading: Reading, images: Sequence[Image]) -> list[Seen]:
        """Raises ConfigError when the reading does not fit the model."""
        runtime = self._runtime(reading.input)
        spec = reading.input.of(self._artefact)
        decoder = open_decoder(reading.decode, runtime.outputs, self._bundle.labels, spec, reading.settings)
        try:
            return [decoder.decode(outputs, placement) for outputs, placement in self._look(reading.input, images)]
        except (IndexError, ValueError, TypeError) as error:
            raise ConfigError(f"{reading.words}: {error}") from error

    def close(self) -> None:
        for runtime in self._runtimes.values():
            runtime.close()

    def fitting(self, reading: Reading) -> list[str]:
        spec = reading.input.of(self._artefact)
        return fitting(self._runtime(reading.input).outputs, self._bundle.labels, spec)

    def _look(self, spec: InputSpec, images: Sequence[Image]) -> list[tuple[tuple[Tensor, ...], Placement]]:
        """The model's outputs, which many decodings share."""
        if self._kept is not None and self._kept[0] == spec and self._kept[1] is images:
            return self._kept[2]
        runtime, prepare = self._runtime(spec), Prepare(spec.of(self._artefact))
        found = []
        for image in images:
            canvas, placement, _ = prepare.put(image)
            outputs = tuple(replace(each, raw=each.raw.copy()) for each in runtime.infer(canvas))
            found.append((outputs, placement))
        self._kept = spec, images, found
        return found

    def _runtime(self, spec: InputSpec) -> Backend:
        """What a backend does with pixels is all that it needs of a spec: the resize is done before it."""
        key = replace(spec, resize="stretch", filter="linear", pad_value=0) if spec.width_px else spec
        if key not in self._runtimes:
            self._runtimes[key] = self._open(self._artefact, spec.of(self._artefact))
        return self._runtimes[key]


def search(
    views: Views, start: Reading, answers: Sequence[Answer], images: Sequence[Image], least: float, agrees: Any
) -> tuple[list[Tried], Tried, int]:
    """The readings, as near to `start` as can be, with which all answers agree (`agrees`: Gap -> bool); the nearest
    reading; how many were tried. One change first, then up to three at once from the nearest ones."""

    def look(reading: Reading) -> Tried | None:
        try:
            seen = views.see(reading, images)
            return Tried(reading, together([gap(*pair, least) for pair in zip(answers, seen, strict=True)]))
        except ConfigError:
            return None

    first = look(start)
    nearest = [] if first is None else [first]
    best, count = first, 1
    for _ in range(_MOST_AT_ONCE):
        tried: list[Tried] = []
        for each in nearest or [Tried(start, Gap(1.0, 0.0, 0, 0, float("inf")))]:
            for reading in variations(each.reading, views):
                count += 1
                if (found := look(reading)) is not None and found.gap.distance < each.gap.distance:
                    tried.append(found)
        right = [each for each in tried if agrees(each.gap)]
        nearest = sorted(tried, key=lambda each: each.gap.distance)[:_BEAM]
        if nearest and (best is None or nearest[0].gap.distance < best.gap.distance):
            best = nearest[0]
        if right:
            return _unlike(right), best or right[0], count
        if not nearest:
            break
    return [], best or Tried(start, Gap(1.0, 0.0, 0, 0, float("inf"))), count


def _unlike(tried: Sequence[Tried]) -> list[Tried]:
    """The nearest first, each set of options once."""
    found: dict[frozenset[tuple[str, str]], Tried] = {}
    for each in sorted(tried, key=lambda each: each.gap.distance):
        found.setdefault(frozenset(each.reading.options), each)
    return list(found.values())


def variations(reading: Reading, views: Views) -> Iterator[Reading]:
    """All readings that differ in one more stage."""
    done = {stage for stage, _ in reading.options}
    for stage, option, spec in _of_input(reading.input):
        if stage not in done:
            yield replace(reading, input=spec, options=(*reading.options, (stage, option)))
    known = {each.name for each in fields(DecodeSettings)}
    for name, values in _DECODINGS.items():
        if name in done or name not in known:
            continue
        option = f"--{name.replace('_', '-')}"
        for value in values:
            if value != getattr(reading.settings, name):
                settings = replace(reading.settings, **{name: value})
                yield replace(reading, settings=settings, options=(*reading.options, (name, f"{option} {value}")))
    if "decode" not in done:
        for name in views.fitting(reading):
            if name != reading.decode:
                yield replace(reading, decode=name, options=(*reading.options, ("decode", f"--decode {name}")))


def _of_input(spec: InputSpec) -> Iterator[tuple[str, str, InputSpec]]:
    if spec.color != "gray":
        other = "bgr" if spec.color == "rgb" else "rgb"
        yield "color", f"--color {other}", replace(spec, color=other)  # type: ignore[arg-type]
        for option, mean, std in _NORMALISATIONS:
            if (mean, std) != (spec.mean, spec.std):
                yield "normalisation", option, replace(spec, mean=mean, std=std)
    if spec.width_px is None:
        return
    for resize in _RESIZES:
        if resize == "center_crop":
            for fraction in (1.0, 0.9, 0.875):
                crop = replace(spec, resize="center_crop", crop_fraction=fraction)
                if crop != spec:
                    yield "resize", f"--resize center_crop --crop-fraction {fraction:g}", crop
        elif resize != spec.resize:
            yield "resize", f"--resize {resize}", replace(spec, resize=resize)  # type: ignore[arg-type]
    if spec.resize.startswith("letterbox"):
        for value in (0, 114, 127, 255):
            if value != spec.pad_value:
                yield "pad", f"--pad-value {value}", replace(spec, pad_value=value)
    for name in _FILTERS:
        if name != spec.filter:
            yield "filter", f"--filter {name}", replace(spec, filter=name)  # type: ignore[arg-type]
