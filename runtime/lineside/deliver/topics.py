"""The topics of one box, from the templates of [mqtt]."""

from __future__ import annotations


class Topics:
    """`topic` is a template with {station} and {kind} (decision, event, gap); `status_topic` is one per box."""

    def __init__(self, topic: str, status_topic: str, site: str, line: str, box: str) -> None:
        self._names = {"site": site, "line": line, "box": box}
        self._template = topic
        self._known: dict[tuple[str, str], str] = {}
        self.status = status_topic.format(**self._names)

    def of(self, station: str, kind: str) -> str:
        """Where live messages of a station go; backfill goes to the same with /backfill."""
        topic = self._known.get((station, kind))
        if topic is None:
            topic = self._template.format(**self._names, station=station, kind=kind)
            self._known[station, kind] = topic
        return topic
