"""Decides when to ask which box for what: once a hole is old enough, one request a box, with backoff. Pure."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .inbox import Key, is_seq

ROWS = 5000  # asked for at a time
NEAR = 64  # holes so near to each other are asked for together: what lies between comes twice
DRAINING = 1000  # messages that a box still has to send: holes may be among them while their number falls
FINAL = ("pruned", "epoch lost", "unknown epoch")  # reasons of the box that no later answer will change


@dataclass(frozen=True, slots=True)
class Request:
    """first_seq..last_seq of a stream, to be asked for at `topic` under `correlation`; by command: signed."""

    topic: str
    is_command: bool
    key: Key
    first_seq: int
    last_seq: int
    correlation: str


@dataclass
class Box:
    """What a box's status says of itself: where to ask it, and for what."""

    resend_topic: str | None
    command_topic: str | None
    epochs: tuple[str, ...]
    pending: int = 0
    is_draining: bool = False


@dataclass
class _Patience:
    """What has been tried for one stream."""

    hole: int  # the first seq of its first hole,
    until: int  # the last of its last, when it was noticed,
    since_s: float  # and since when that one is open
    not_before_s: float = 0.0
    tries: int = 0
    refusal: str = ""
    was_answered: bool = False


@dataclass
class _Asked:
    request: Request
    until_s: float


@dataclass
class Asker:
    """Times are seconds of one monotonic clock, given by the caller."""

    grace_s: float = 2.0
    answer_s: float = 10.0  # without a message of the answer for so long: ask again
    backoff_min_s: float = 1.0
    backoff_max_s: float = 60.0
    signs: bool = False  # asks by signed command where a box takes them
    chance: random.Random = field(default_factory=random.Random)
    _boxes: dict[str, Box] = field(default_factory=dict)  # by the topic of their status
    _patience: dict[Key, _Patience] = field(default_factory=dict)
    _asked: dict[str, _Asked] = field(default_factory=dict)  # by the topic asked

    def heard(self, topic: str, status: Mapping[str, Any]) -> Box | None:
        """A box's status; the box, where it answers requests."""
        resend, command, pending = (status.get(name) for name in ("resend_topic", "command_topic", "pending"))
        previous = status.get("previous")
        epochs = [of.get("epoch") for of in (status, previous) if isinstance(of, dict)]
        resend, command = (to if isinstance(to, str) else None for to in (resend, command))
        if status.get("state") != "online" or not (resend or command):
            self._boxes.pop(topic, None)
            return None
        pending = pending if is_seq(pending) and isinstance(pending, int) else 0
        before = self._boxes.get(topic)
        box = Box(resend, command, tuple(map(str, epochs)), pending)
        box.is_draining = before is not None and DRAINING < pending < before.pending
        self._boxes[topic] = box
        return box

    def due(self, holes: Mapping[Key, Sequence[tuple[int, int]]], now_s: float) -> list[Request]:
        """What to ask for now; each request counts as sent."""
        for late in [asked for asked in self._asked.values() if now_s >= asked.until_s]:
            del self._asked[late.request.topic]
            self._again_later(late.request.key, now_s, f"no answer within {self.answer_s:g} s")
        for key in self._patience.keys() - holes.keys():
            del self._patience[key]
        requests = []
        for key, runs in holes.items():
            patience = self._patience_for(key, runs, now_s)
            box = self._box_of(key[1])
            asked = ((self.signs and box.command_topic) or box.resend_topic) if box else None
            if box is None or not asked or box.is_draining or asked in self._asked:
                continue
            if now_s < max(patience.since_s + self.grace_s, patience.not_before_s):
                continue
            request = Request(asked, asked == box.command_topic, key, *_range(runs), secrets.token_hex(8))
            self._asked[asked] = _Asked(request, now_s + self.answer_s)
            requests.append(request)
        return requests

    def came(self, key: Key, now_s: float) -> None:
        """A message of a stream arrived late: an answer that is under way needs no second question."""
        for asked in self._asked.values():
            if asked.request.key == key:
                asked.until_s = now_s + self.answer_s

    def answered(self, reply: Mapping[str, Any], now_s: float) -> tuple[Request, list[tuple[int, int, str]]] | None:
        """A reply: what was asked, and which of it is gone for good; None where it answers nobody here."""
        asked = next((a for a in self._asked.values() if a.request.correlation == reply.get("correlation")), None)
        if asked is None:
            return None
        del self._asked[asked.request.topic]
        request, result = asked.request, reply.get("result")
        if reply.get("ok") is not True or not isinstance(result, dict):
            self._again_later(request.key, now_s, str(reply.get("reason") or "refused"))
            return request, []
        gone = [
            (run["first_seq"], run["last_seq"], str(run["reason"]))
            for run in result.get("missing") or ()
            if isinstance(run, dict) and run.get("reason") in FINAL
            if is_seq(run.get("first_seq")) and is_seq(run.get("last_seq"))
        ]
        if (patience := self._patience.get(request.key)) is not None:
            patience.was_answered = True
        if not is_seq(result.get("next")):  # that was all: what did not arrive is asked for again, but not at once
            self._again_later(request.key, now_s, "")
        return request, gone

    def lost_connection(self) -> None:
        """Answers that were under way may have ended with it."""
        self._asked.clear()

    def refusals(self) -> dict[str, str]:
        """Station -> why it was not resent, of those that still miss something."""
        return {key[0]: patience.refusal for key, patience in self._patience.items() if patience.refusal}

    def _patience_for(self, key: Key, runs: Sequence[tuple[int, int]], now_s: float) -> _Patience:
        """That of the stream's first hole. A new hole is waited for; the rest of one that was asked for is not."""
        first, last = runs[0][0], runs[-1][1]
        before = self._patience.get(key)
        if before is not None and before.hole == first:
            return before
        fresh = _Patience(first, last, now_s, before.not_before_s if before else 0.0)
        if before is not None and before.was_answered and first <= before.until:
            fresh = _Patience(first, max(last, before.until), before.since_s)
        self._patience[key] = fresh
        return fresh

    def _box_of(self, epoch: str) -> Box | None:
        return next((box for box in self._boxes.values() if epoch in box.epochs), None)

    def _again_later(self, key: Key, now_s: float, why: str) -> None:
        patience = self._patience.get(key)
        if patience is None:
            return
        patience.tries += 1
        patience.refusal = why
        ceiling_s = min(self.backoff_min_s * 2 ** min(patience.tries - 1, 20), self.backoff_max_s)
        patience.not_before_s = now_s + self.chance.uniform(ceiling_s / 2, ceiling_s)


def _range(runs: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The first hole, with those that follow close upon it."""
    first, last = runs[0]
    for following in runs[1:]:
        if following[0] - last > NEAR or last - first >= ROWS:
            break
        last = following[1]
    return first, min(last, first + ROWS - 1)
