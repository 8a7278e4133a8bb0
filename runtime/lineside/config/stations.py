"""[stations.NAME] of lineside.toml: which camera and model, what is a part, and the rules that decide.

Points are fractions of the picture (0 to 1, origin at the top left), or pixels where the key ends in `_px`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated, Literal, TypeAlias

from lineside.checked import Is, Table, table
from lineside.config.geometry import Point, check_fractions, in_pixels, polygon_fault

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # a name becomes an MQTT topic level, a log field and a file name
Name = Annotated[str, Is(pattern=NAME_PATTERN)]
Score = Annotated[float, Is(ge=0, le=1)]
Verdict: TypeAlias = Literal["reject", "unknown"]

ANOMALY_LABEL = "anomaly"  # what the finding of an anomaly model is called


@table
class TriggerConfig(Table):
    """What is a part: each frame, each object that crosses a line, or nothing (event pipelines)."""

    driver: Annotated[str, Is("free: needs nothing but the camera")] = "free"
    per: Annotated[
        Literal["frame", "object", "event"],
        Is("frame: each frame is a part; object: each object that crosses the line; event: no parts"),
    ] = "frame"
    line: Annotated[tuple[Point, Point] | None, Is("Two points, fractions of the picture")] = None
    line_px: Annotated[tuple[Point, Point] | None, Is("Two points, pixels of the picture")] = None
    direction: Annotated[
        Literal["any", "left", "right", "up", "down", "forward", "backward"],
        Is(
            "Which way across the line counts, as seen in the picture; forward: from the left hand to the "
            "right hand of someone who walks from the first point to the second"
        ),
    ] = "any"
    track_labels: Annotated[tuple[str, ...], Is("Labels that are parts; empty: all labels of the model")] = ()
    track_high_score: Annotated[Score, Is("Score from which a box starts a track")] = 0.4
    track_low_score: Annotated[Score, Is("Score from which a box continues a track")] = 0.1
    min_hits: Annotated[int, Is("Frames in which an object must be seen to be a part", ge=1, le=100)] = 3
    max_age_s: Annotated[float, Is("How long an object may be out of sight and stay the same", gt=0, le=60)] = 0.5
    max_frames: Annotated[int, Is("Of one part, the newest so many frames are judged", ge=1, le=10_000)] = 100

    def __post_init__(self) -> None:
        given = [line for line in (self.line, self.line_px) if line is not None]
        if self.per == "object" and len(given) != 1:
            raise ValueError(
                'per = "object" needs one of line (fractions) and line_px: the middle is line = [[0.5, 0], [0.5, 1]]'
            )
        if self.per != "object" and (given or self.track_labels):
            raise ValueError(f'line and track_labels are for per = "object", not per = "{self.per}": remove them')
        if given and given[0][0] == given[0][1]:
            raise ValueError("the line's two points are the same: give two different points")
        if self.line is not None:
            check_fractions("line", self.line)
        if self.track_low_score > self.track_high_score:
            raise ValueError(
                f"track_low_score = {self.track_low_score} is above track_high_score = {self.track_high_score}"
            )


@table
class ZoneConfig(Table):
    """A named polygon; its sides don't cross each other."""

    polygon: Annotated[tuple[Point, ...] | None, Is("Corners in order, fractions of the picture")] = None
    polygon_px: Annotated[tuple[Point, ...] | None, Is("Corners in order, pixels of the picture")] = None

    def __post_init__(self) -> None:
        if (self.polygon is None) == (self.polygon_px is None):
            raise ValueError("needs one of polygon (fractions) and polygon_px (pixels), and not both")
        points = self.polygon or self.polygon_px or ()
        if self.polygon is not None:
            check_fractions("polygon", self.polygon)
        if fault := polygon_fault(points):
            raise ValueError(fault)

    def points_px(self, width_px: int, height_px: int) -> tuple[Point, ...]:
        """The corners in pixels of a picture of that size."""
        return in_pixels(self.polygon, self.polygon_px, width_px, height_px)


@table
class _Rule(Table):
    name: Annotated[Name | None, Is("How causes and events call the rule; default: its kind")] = None
    labels: Annotated[tuple[str, ...], Is("Labels that count; empty: all")] = ()
    verdict: Annotated[Verdict, Is("What the part becomes where the rule holds")] = "reject"

    def options(self) -> dict[str, object]:
        """Keyword arguments of the rule's driver; zones are put in by StationConfig.rule_options."""
        return {"name": self.name or self.kind, **self.values(without=("kind", "name", "keep_score"))}  # type: ignore[attr-defined]


@table
class ThresholdConfig(_Rule):
    """Holds where a score is `high` or more; between `low` and `high` the part is unknown."""

    kind: Literal["threshold"]
    high: Annotated[float, Is("Score from which the rule holds; 0 to 1, or the anomaly model's own scale")]
    low: Annotated[float | None, Is("Score from which the part is unknown; default: high")] = None
    of: Annotated[Literal["any", "top"], Is("any: each finding; top: only the best finding of a frame")] = "any"
    keep_score: Annotated[float | None, Is("Event pipelines: an open event lasts while the score is above")] = None

    def __post_init__(self) -> None:
        if self.low is not None and self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}: want low <= high")
        _keeps("keep_score", self.keep_score, "high", self.high)


@table
class DefectConfig(_Rule):
    """Holds where a finding of these labels is sure and large enough."""

    kind: Literal["defect"]
    min_score: Score = 0.5
    min_side_px: Annotated[float, Is("Smallest shorter side of the finding's box", ge=0)] = 0
    min_area_px: Annotated[float, Is("Smallest area of the finding's box, square pixels", ge=0)] = 0
    keep_score: Annotated[Score | None, Is("Event pipelines: an open event lasts while the score is above")] = None

    def __post_init__(self) -> None:
        _keeps("keep_score", self.keep_score, "min_score", self.min_score)


@table
class CountConfig(_Rule):
    """Holds where the number of findings is outside [min_count, max_count]."""

    kind: Literal["count"]
    min_count: Annotated[int | None, Is(ge=0)] = None
    max_count: Annotated[int | None, Is(ge=0)] = None
    min_score: Score = 0.5

    def __post_init__(self) -> None:
        if self.min_count is None and self.max_count is None:
            raise ValueError("needs min_count, max_count or both: without them the rule can never hold")
        if self.min_count is not None and self.max_count is not None and self.min_count > self.max_count:
            raise ValueError(f"min_count = {self.min_count} is above max_count = {self.max_count}")


@table
class ZoneRuleConfig(_Rule):
    """Holds while things are in a zone (or missing from it), from `dwell_s` on."""

    kind: Literal["zone"]
    zone: Annotated[Name, Is("A name of [stations.NAME.zones]")]
    when: Literal["present", "absent"] = "present"
    anchor: Annotated[
        Literal["centre", "bottom_centre", "overlap"],
        Is("What of a box must be in the zone; overlap: the share min_overlap of its area"),
    ] = "centre"
    min_overlap: Annotated[float, Is(gt=0, le=1)] = 0.5
    min_score: Score = 0.5
    min_count: Annotated[int, Is("present: so many at a time; absent: fewer than so many", ge=1)] = 1
    dwell_s: Annotated[float, Is(ge=0)] = 0
    dwell_of: Annotated[
        Literal["object", "zone"], Is("object: each thing by itself must stay; zone: the zone must stay occupied")
    ] = "object"
    keep_score: Annotated[Score | None, Is("Event pipelines: an open event lasts while the score is above")] = None

    def __post_init__(self) -> None:
        _keeps("keep_score", self.keep_score, "min_score", self.min_score)


RuleConfig = Annotated[ThresholdConfig | DefectConfig | CountConfig | ZoneRuleConfig, Is(discriminator="kind")]


@table
class SteadyConfig(Table):
    """Debounce: in how many frames a rule must hold before it counts."""

    min_frames: Annotated[int, Is("Parts: a rule must hold in so many frames ...", ge=1)] = 1
    of_frames: Annotated[int | None, Is("... out of so many in a row; default: of all frames", ge=1)] = None
    on_frames: Annotated[int, Is("Events: a rule must hold in so many frames in a row ...", ge=1)] = 3
    on_s: Annotated[float, Is("... and for so long, before the event starts", ge=0)] = 0
    off_frames: Annotated[int, Is("Events: a rule must not hold in so many frames in a row ...", ge=1)] = 3
    off_s: Annotated[float, Is("... and for so long, before the event ends", ge=0)] = 0.5

    def __post_init__(self) -> None:
        if self.of_frames is not None and self.of_frames < self.min_frames:
            raise ValueError(f"min_frames = {self.min_frames} of of_frames = {self.of_frames} can never be reached")


@table
class StationConfig(Table):
    """One station: a camera's pictures, a model, and what is decided about them."""

    camera: Annotated[Name, Is("A name of [cameras]")]
    bundle: Annotated[str, Is("Folder of the model bundle, or the name of a shipped one", min_length=1)]
    backend: Annotated[str, Is("auto: the first of the device profile that fits the bundle and works")] = "auto"
    device: Annotated[str | None, Is('"cpu", "cuda", "npu" ...; default: the backend\'s or the profile\'s')] = None
    fallback: Annotated[tuple[str, ...], Is('Backends to fall back to, said so: "litert:cpu", "openvino:cpu" ...')] = ()
    threads: Annotated[int | None, Is("Default: the profile's", ge=1, le=256)] = None
    slots: Annotated[int | None, Is("Frames that are worked on at a time; default: profile's", ge=1, le=16)] = None
    min_score: Annotated[Score | None, Is("Findings below are dropped; default: the bundle's")] = None
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    zones: dict[Name, ZoneConfig] = field(default_factory=dict)
    rules: tuple[RuleConfig, ...] = ()
    steady: SteadyConfig = field(default_factory=SteadyConfig)
    deadline_ms: Annotated[float | None, Is("Capture to decision; a slower decision is marked late", gt=0)] = None
    frames: Annotated[
        Literal["freshest", "every"] | None,
        Is("freshest: skip to the newest frame, counted; every: lose none; default: the camera's"),
    ] = None
    queue_frames: Annotated[int, Is('Frames that may wait with frames = "every"', ge=1, le=10_000)] = 64
    blur_faces: Annotated[
        bool | None, Is("Blur faces in every stored or published picture; default: where the model finds faces")
    ] = None

    def __post_init__(self) -> None:
        for position, rule in enumerate(self.rules):
            if isinstance(rule, ZoneRuleConfig) and rule.zone not in self.zones:
                known = f"[zones] has {', '.join(self.zones)}" if self.zones else "there is no [zones] table: add one"
                raise ValueError(
                    f"rules[{position}].zone = {rule.zone!r}: no such zone{_meant(rule.zone, self.zones)}; {known}"
                )
            if self.trigger.per != "event" and getattr(rule, "keep_score", None) is not None:
                raise ValueError(f'rules[{position}].keep_score is for trigger.per = "event": remove it')
            if self.trigger.per == "frame" and isinstance(rule, ZoneRuleConfig) and rule.dwell_s > 0:
                raise ValueError(
                    f'rules[{position}].dwell_s = {rule.dwell_s:g}: with trigger.per = "frame" each frame is judged '
                    'by itself; use per = "event" or "object", or no dwell'
                )
        names = [rule.name or rule.kind for rule in self.rules]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two rules are called {twice[0]!r}: give each a name of its own, name = ...")
        if self.trigger.per == "event" and not self.rules:
            raise ValueError('trigger.per = "event" publishes what its rules find: add [[rules]]')
        if self.trigger.per == "frame" and self.steady.min_frames > 1:
            raise ValueError(
                f'steady.min_frames = {self.steady.min_frames}: with trigger.per = "frame" a part has one frame; '
                'use 1, or per = "object"'
            )

    def trigger_options(self, width_px: int, height_px: int) -> dict[str, object]:
        """Keyword arguments of the trigger's driver, beside `station`, for pictures of that size."""
        if self.trigger.per != "object":
            return {"per": self.trigger.per}
        options = self.trigger.values(without=("driver", "line", "line_px"))
        return options | {"line_px": in_pixels(self.trigger.line, self.trigger.line_px, width_px, height_px)}

    def rule_options(self, width_px: int, height_px: int) -> list[tuple[str, dict[str, object]]]:
        """(kind, keyword arguments) of each rule's driver, for pictures of that size."""
        return [(rule.kind, self._options(rule, width_px, height_px)) for rule in self.rules]

    def event_options(self, width_px: int, height_px: int) -> list[tuple[str, dict[str, object], dict[str, object]]]:
        """(kind, arguments to start an event, arguments to keep it) of each rule: hysteresis by `keep_score`."""
        triples: list[tuple[str, dict[str, object], dict[str, object]]] = []
        for rule in self.rules:
            start = self._options(rule, width_px, height_px)
            keep_score = getattr(rule, "keep_score", None)
            score = "high" if rule.kind == "threshold" else "min_score"
            keep = start if keep_score is None else {**start, score: keep_score}
            if rule.kind == "threshold":
                keep = {**keep, "low": None}
                start = {**start, "low": None}
            triples.append((rule.kind, start, keep))
        return triples

    def zones_px(self, width_px: int, height_px: int) -> dict[str, tuple[Point, ...]]:
        """Every zone's corners, to draw."""
        return {name: zone.points_px(width_px, height_px) for name, zone in self.zones.items()}

    def lines_px(self, width_px: int, height_px: int) -> dict[str, tuple[Point, ...]]:
        """The trigger's line, to draw."""
        if self.trigger.per != "object":
            return {}
        return {"line": in_pixels(self.trigger.line, self.trigger.line_px, width_px, height_px)}

    def blurs(self, labels: Sequence[str]) -> bool:
        """Whether faces are blurred: as configured, else where the model finds faces."""
        return self.blur_faces if self.blur_faces is not None else bool(face_labels(labels))

    def _options(self, rule: RuleConfig, width_px: int, height_px: int) -> dict[str, object]:
        options = rule.options()
        if isinstance(rule, ZoneRuleConfig):
            options["polygon_px"] = self.zones[rule.zone].points_px(width_px, height_px)
        return options


def face_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that mean a face: "face", "Face masked", "no-mask_face"; not "surface" or "interface"."""
    return tuple(label for label in labels if re.search(r"(?<![a-z])faces?(?![a-z])", label, re.IGNORECASE))


def problems(name: str, station: StationConfig, labels: Sequence[str], task: str = "detect") -> list[str]:
    """What in a station doesn't fit its bundle's labels: one line each, path, value and what is allowed."""
    known = [ANOMALY_LABEL] if task == "anomaly" else list(labels)
    return list(_problems(f"stations.{name}", station, known, task))


def outside(name: str, station: StationConfig, width_px: int, height_px: int) -> list[str]:
    """Lines and zones in pixels that lie outside of pictures of that size: one line each."""
    shapes = [(f"zones.{key}.polygon_px", zone.polygon_px) for key, zone in station.zones.items()]
    shapes.append(("trigger.line_px", station.trigger.line_px))
    return [
        f"stations.{name}.{path}: ({x:g}, {y:g}) is outside of the picture of {width_px} x {height_px} pixels"
        for path, points in shapes
        for x, y in points or ()
        if not (0 <= x <= width_px and 0 <= y <= height_px)
    ]


def _problems(path: str, station: StationConfig, known: list[str], task: str) -> Iterator[str]:
    if station.trigger.per == "object" and task != "detect":
        yield f'{path}.trigger.per = "object": needs a detector, the bundle is for {task}; use per = "frame"'
    for label in station.trigger.track_labels:
        if label not in known:
            yield _no_label(f"{path}.trigger.track_labels", label, known)
    for position, rule in enumerate(station.rules):
        where = f"{path}.rules[{position}]"
        for label in rule.labels:
            if label not in known:
                yield _no_label(f"{where}.labels", label, known)
        if task != "detect" and rule.kind != "threshold":
            yield f'{where}.kind = "{rule.kind}": needs a detector, the bundle is for {task}; use kind = "threshold"'
        if isinstance(rule, ThresholdConfig) and task != "anomaly" and not 0 <= rule.high <= 1:
            yield f"{where}.high = {rule.high:g}: scores of this bundle are 0 to 1"


def _no_label(path: str, label: str, known: list[str]) -> str:
    shown = ", ".join(known[:12]) + (f" ... ({len(known)} in all)" if len(known) > 12 else "")
    return f"{path}: the bundle has no label {label!r}{_meant(label, known)}; its labels are {shown}"


def _meant(name: str, known: Sequence[str] | dict[str, ZoneConfig]) -> str:
    import difflib

    lowered = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f", did you mean {lowered[near[0]]!r}?" if near else ""


def _keeps(keep_name: str, keep: float | None, start_name: str, start: float) -> None:
    if keep is not None and keep > start:
        raise ValueError(
            f"{keep_name} = {keep} is above {start_name} = {start}: an event must be easier kept than started"
        )
