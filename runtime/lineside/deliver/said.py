"""What a sink says beside the journal's rows: documents that are kept up to date, and answers to those who asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

REST_S = 60.0  # of a document that the broker refused: some close the connection with it, and rows must not suffer
REST_MAX_S = 3600.0


class Outgoing(NamedTuple):
    """One message of an answer; `expiry_s` and `correlation` as in Link.publish."""

    topic: str
    payload: bytes
    expiry_s: int | None = None
    correlation: bytes | None = None


class Document:
    """A message that stands for the present state: sent on each connection, when it changed, and every `every_s`."""

    def __init__(self, topic: str, make: Callable[[], bytes | None], every_s: float, retain: bool) -> None:
        self.topic = topic
        self.make = make
        self.every_s = every_s
        self.retain = retain
        self.due_at = 0.0
        self.rests_until, self.rest_s = 0.0, REST_S


class Documents:
    """Sent in the order in which they were added. `changed` may be called from any thread."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}

    def add(self, document: Document) -> None:
        self._documents[document.topic] = document

    def changed(self, topic: str) -> None:
        self._documents[topic].due_at = 0.0

    def all_due(self) -> None:
        """A new connection: the broker may have lost them, or never had them."""
        for document in self._documents.values():
            document.due_at = 0.0

    def refused(self, topic: str, now: float) -> None:
        """The broker would not have it: it rests, for longer each time."""
        if (document := self._documents.get(topic)) is not None:
            document.rests_until = now + document.rest_s
            document.rest_s = min(document.rest_s * 2, REST_MAX_S)

    def send(self, now: float, publish: Callable[[Document, bytes], object]) -> float:
        """Publish what is due; how long until the next is, in seconds."""
        for document in self._documents.values():
            if now >= max(document.due_at, document.rests_until):
                document.due_at = now + document.every_s
                payload = document.make()
                if payload is not None:
                    publish(document, payload)
        return min((max(each.due_at, each.rests_until) - now for each in self._documents.values()), default=1.0)


class Answers:
    """Answers that are still being sent, a message of each in turn. One is an iterator: it makes a message when there
    is room for it, so that an answer of a million messages takes no memory; it must map its own errors to a message.
    """

    def __init__(self) -> None:
        self._answers: deque[Iterator[Outgoing]] = deque()
        self._next_at = 0.0

    def add(self, messages: Iterator[Outgoing]) -> None:
        self._answers.append(messages)

    def clear(self) -> None:
        """The connection broke: who asked asks again."""
        self._answers.clear()

    def __len__(self) -> int:
        return len(self._answers)

    def send(self, now: float, room: int, pause_s: float, publish: Callable[[Outgoing], bool]) -> float:
        """Publish up to `room` messages, then rest; how long to wait, in seconds."""
        if now < self._next_at:
            return self._next_at - now
        if room <= 0:
            return 1.0  # an acknowledgement will wake us
        while self._answers and room > 0:
            message = next(self._answers[0], None)
            if message is None:
                self._answers.popleft()
                continue
            if not publish(message):
                return 1.0  # the link went down, which clears all
            self._answers.rotate(-1)
            room -= 1
        self._next_at = now + pause_s
        return pause_s if self._answers else 1.0
