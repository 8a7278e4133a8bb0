"""What a cell's answers are worth: golden pictures, verdicts that flip against other answers, drift of scores. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lineside.records import AnomalyMap, Classification, Detections, Seen
from lineside.tuning.compare import Tally


@dataclass(frozen=True, slots=True)
class Against:
    """The answers of a cell beside others: `drift` is the largest difference of a score."""

    flips: int
    drift: float


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell. `outcome`: right | wrong | refused | died; `golden`: how far it is from the golden answers, in lines.

    refused: the product does not decide with it there, because it does not open or fails its golden pictures.
    wrong: the golden pictures pass, and yet verdicts are not those of the same file computed exactly, in more pictures
    than rounding explains.
    """

    outcome: str
    why: str = ""
    golden: int = 0
    pictures: int = 0
    float_: Against | None = None
    exact: Against | None = None
    ran_on: str = ""  # file and backend


CLOSE = 40  # in so many pictures one verdict may be so close that rounding decides it
Answers = Sequence[Mapping[str, Any]]


def judge(found: Mapping[str, Any], float_: Answers, exact: Answers | None, threshold: float | None) -> Judged:
    """`found`: what the cell gave; `float_`, `exact`: what the float model, and the file computed exactly, saw in the
    same pictures. A flip is `lineside parity`'s: another best class, other classes among the findings, the other side
    of the threshold."""
    if "died" in found:
        return Judged("died", found["died"])
    if "refused" in found:
        return Judged("refused", found["refused"])
    golden = found["golden"]
    why = golden[0] if golden else ""
    try:
        beside = against(float_, found["seen"], threshold)
        same = against(exact, found["seen"], threshold) if exact is not None else None
    except ValueError as error:  # an answer that is no number
        return Judged("refused" if golden else "wrong", why or str(error), len(golden))
    most = max(1, len(found["seen"]) // CLOSE)
    outcome = "refused" if golden else "wrong" if same is not None and same.flips > most else "right"
    where = f"{found['file']} on {found['backend']}"
    return Judged(outcome, why, len(golden), len(found["seen"]), beside, same, where)


def against(wanted: Answers, seen: Answers, threshold: float | None) -> Against:
    """Raises ValueError where a score is no number, or there are not as many answers."""
    tally = Tally(threshold)
    for one, other in zip(wanted, seen, strict=True):
        tally.add(seen_of(one), seen_of(other))
    return Against(sum(tally.flips), max((value for picture in tally.drifts for value in picture), default=0.0))


def seen_of(plain: Mapping[str, Any]) -> Seen:
    """What answer.py wrote down, as the product has it."""
    if "score" in plain:
        return AnomalyMap(plain["score"])
    scores = np.array(plain["scores"], np.float32)
    if "boxes" not in plain:
        return Classification(scores)
    return Detections(
        np.array(plain["boxes"], np.float32).reshape(-1, 4), scores, np.array(plain["class_ids"], np.int32)
    )
