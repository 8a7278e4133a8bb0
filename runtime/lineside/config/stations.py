"""[stations.NAME] of lineside.toml: which camera and model, what is a part, and the rules that decide.

Points are fractions of the picture (0 to 1, origin at the top left), or pixels where the key ends in `_px`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lineside.config.geometry import Point, check_fractions, in_pixels, polygon_fault

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Score = Annotated[float, Field(ge=0, le=1)]
Verdict: TypeAlias = Literal["reject", "unknown"]

ANOMALY_LABEL = "anomaly"  # what the finding of an anomaly model is called


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TriggerConfig(Strict):
    """What is a part: each frame, each object that crosses a line, or nothing (event pipelines)."""

    driver: str = Field(default="free", description="free: needs nothing but the camera")
    per: Literal["frame", "object", "event"] = Field(
        default="frame",
        description="frame: each frame is a part; object: each object that crosses the line; event: no parts",
    )
    line: tuple[Point, Point] | None = Field(default=None, description="Two points, fractions of the picture")
    line_px: tuple[Point, Point] | None = Field(default=None, description="Two points, pixels of the picture")
    direction: Literal["any", "left", "right", "up", "down", "forward", "backward"] = Field(
        default="any",
        description="Which way across the line counts, as seen in the picture; forward: from the left hand to the "
        "right hand of someone who walks from the first point to the second",
    )
    track_labels: tuple[str, ...] = Field(
        default=(), description="Labels that are parts; empty: all labels of the model"
    )
    track_high_score: Score = Field(default=0.4, description="Score from which a box starts a track")
    track_low_score: Score = Field(default=0.1, description="Score from which a box continues a track")
    min_hits: int = Field(default=3, ge=1, le=100, description="Frames in which an object must be seen to be a part")
    max_age_s: float = Field(
        default=0.5, gt=0, le=60, description="How long an object may be out of sight and stay the same"
    )
    max_frames: int = Field(
        default=100, ge=1, le=10_000, description="Of one part, the newest so many frames are judged"
    )

    @model_validator(mode="after")
    def _fits(self) -> TriggerConfig:
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
        return self


class ZoneConfig(Strict):
    """A named polygon; its sides don't cross each other."""

    polygon: tuple[Point, ...] | None = Field(default=None, description="Corners in order, fractions of the picture")
    polygon_px: tuple[Point, ...] | None = Field(default=None, description="Corners in order, pixels of the picture")

    @model_validator(mode="after")
    def _fits(self) -> ZoneConfig:
        if (self.polygon is None) == (self.polygon_px is None):
            raise ValueError("needs one of polygon (fractions) and polygon_px (pixels), and not both")
        points = self.polygon or self.polygon_px or ()
        if self.polygon is not None:
            check_fractions("polygon", self.polygon)
        if fault := polygon_fault(points):
            raise ValueError(fault)
        return self

    def points_px(self, width_px: int, height_px: int) -> tuple[Point, ...]:
        """The corners in pixels of a picture of that size."""
        return in_pixels(self.polygon, self.polygon_px, width_px, height_px)


class _Rule(Strict):
    name: Name | None = Field(default=None, description="How causes and events call the rule; default: its kind")
    labels: tuple[str, ...] = Field(default=(), description="Labels that count; empty: all")
    verdict: Verdict = Field(default="reject", description="What the part becomes where the rule holds")

    def options(self) -> dict[str, object]:
        """Keyword arguments of the rule's driver; zones are put in by StationConfig.rule_options."""
        return {"name": self.name or self.kind, **self.model_dump(exclude={"kind", "name", "keep_score"})}  # type: ignore[attr-defined]


class ThresholdConfig(_Rule):
    """Holds where a score is `high` or more; between `low` and `high` the part is unknown."""

    kind: Literal["threshold"]
    high: float = Field(description="Score from which the rule holds; 0 to 1, or the anomaly model's own scale")
    low: float | None = Field(default=None, description="Score from which the part is unknown; default: high")
    of: Literal["any", "top"] = Field(
        default="any", description="any: each finding; top: only the best finding of a frame"
    )
    keep_score: float | None = Field(
        default=None, description="Event pipelines: an open event lasts while the score is above"
    )

    @model_validator(mode="after")
    def _fits(self) -> ThresholdConfig:
        if self.low is not None and self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}: want low <= high")
        _keeps("keep_score", self.keep_score, "high", self.high)
        return self


class DefectConfig(_Rule):
    """Holds where a finding of these labels is sure and large enough."""

    kind: Literal["defect"]
    min_score: Score = 0.5
    min_side_px: float = Field(default=0, ge=0, description="Smallest shorter side of the finding's box")
    min_area_px: float = Field(default=0, ge=0, description="Smallest area of the finding's box, square pixels")
    keep_score: Score | None = Field(
        default=None, description="Event pipelines: an open event lasts while the score is above"
    )

    @model_validator(mode="after")
    def _fits(self) -> DefectConfig:
        _keeps("keep_score", self.keep_score, "min_score", self.min_score)
        return self


class CountConfig(_Rule):
    """Holds where the number of findings is outside [min_count, max_count]."""

    kind: Literal["count"]
    min_count: int | None = Field(default=None, ge=0)
    max_count: int | None = Field(default=None, ge=0)
    min_score: Score = 0.5

    @model_validator(mode="after")
    def _fits(self) -> CountConfig:
        if self.min_count is None and self.max_count is None:
            raise ValueError("needs min_count, max_count or both: without them the rule can never hold")
        if self.min_count is not None and self.max_count is not None and self.min_count > self.max_count:
            raise ValueError(f"min_count = {self.min_count} is above max_count = {self.max_count}")
        return self


class ZoneRuleConfig(_Rule):
    """Holds while things are in a zone (or missing from it), from `dwell_s` on."""

    kind: Literal["zone"]
    zone: Name = Field(description="A name of [stations.NAME.zones]")
    when: Literal["present", "absent"] = "present"
    anchor: Literal["centre", "bottom_centre", "overlap"] = Field(
        default="centre", description="What of a box must be in the zone; overlap: the share min_overlap of its area"
    )
    min_overlap: float = Field(default=0.5, gt=0, le=1)
    min_score: Score = 0.5
    min_count: int = Field(default=1, ge=1, description="present: so many at a time; absent: fewer than so many")
    dwell_s: float = Field(default=0, ge=0)
    dwell_of: Literal["object", "zone"] = Field(
        default="object", description="object: each thing by itself must stay; zone: the zone must stay occupied"
    )
    keep_score: Score | None = Field(
        default=None, description="Event pipelines: an open event lasts while the score is above"
    )

    @model_validator(mode="after")
    def _fits(self) -> ZoneRuleConfig:
        _keeps("keep_score", self.keep_score, "min_score", self.min_score)
        return self


RuleConfig = Annotated[ThresholdConfig | DefectConfig | CountConfig | ZoneRuleConfig, Field(discriminator="kind")]


class SteadyConfig(Strict):
    """Debounce: in how many frames a rule must hold before it counts."""

    min_frames: int = Field(default=1, ge=1, description="Parts: a rule must hold in so many frames ...")
    of_frames: int | None = Field(default=None, ge=1, description="... out of so many in a row; default: of all frames")
    on_frames: int = Field(default=3, ge=1, description="Events: a rule must hold in so many frames in a row ...")
    on_s: float = Field(default=0, ge=0, description="... and for so long, before the event starts")
    off_frames: int = Field(default=3, ge=1, description="Events: a rule must not hold in so many frames in a row ...")
    off_s: float = Field(default=0.5, ge=0, description="... and for so long, before the event ends")

    @model_validator(mode="after")
    def _fits(self) -> SteadyConfig:
        if self.of_frames is not None and self.of_frames < self.min_frames:
            raise ValueError(f"min_frames = {self.min_frames} of of_frames = {self.of_frames} can never be reached")
        return self


class StationConfig(Strict):
    """One station: a camera's pictures, a model, and what is decided about them."""

    camera: Name = Field(description="A name of [cameras]")
    bundle: str = Field(min_length=1, description="Folder of the model bundle, or the name of a shipped one")
    backend: str = Field(
        default="auto", description="auto: the first of the device profile that fits the bundle and works"
    )
    device: str | None = Field(
        default=None, description='"cpu", "cuda", "npu" ...; default: the backend\'s or the profile\'s'
    )
    fallback: tuple[str, ...] = Field(
        default=(), description='Backends to fall back to, said so: "litert:cpu", "openvino:cpu" ...'
    )
    threads: int | None = Field(default=None, ge=1, le=256, description="Default: the profile's")
    slots: int | None = Field(
        default=None, ge=1, le=16, description="Frames that are worked on at a time; default: profile's"
    )
    min_score: Score | None = Field(default=None, description="Findings below are dropped; default: the bundle's")
    trigger: TriggerConfig = TriggerConfig()
    zones: dict[Name, ZoneConfig] = {}
    rules: tuple[RuleConfig, ...] = ()
    steady: SteadyConfig = SteadyConfig()
    deadline_ms: float | None = Field(
        default=None, gt=0, description="Capture to decision; a slower decision is marked late"
    )
    frames: Literal["freshest", "every"] | None = Field(
        default=None, description="freshest: skip to the newest frame, counted; every: lose none; default: the camera's"
    )
    queue_frames: int = Field(default=64, ge=1, le=10_000, description='Frames that may wait with frames = "every"')
    blur_faces: bool | None = Field(
        default=None,
        description="Blur faces in every stored or published picture; default: where the model finds faces",
    )

    @model_validator(mode="after")
    def _fits(self) -> StationConfig:
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
        return self

    def trigger_options(self, width_px: int, height_px: int) -> dict[str, object]:
        """Keyword arguments of the trigger's driver, beside `station`, for pictures of that size."""
        if self.trigger.per != "object":
            return {"per": self.trigger.per}
        options = self.trigger.model_dump(exclude={"driver", "line", "line_px"})
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
    lowered = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return f", did you mean {lowered[near[0]]!r}?" if near else ""


def _keeps(keep_name: str, keep: float | None, start_name: str, start: float) -> None:
    if keep is not None and keep > start:
        raise ValueError(
            f"{keep_name} = {keep} is above {start_name} = {start}: an event must be easier kept than started"
        )
