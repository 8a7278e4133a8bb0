"""The topics of one box, from the templates of [mqtt]."""

from __future__ import annotations


class Topics:
    """`topic` is a template with {station} and {kind} (decision, event, gap); `status_topic` is one per box."""

    def __init__(self, topic: str, status_topic: str, site: str, line: str, box: str) -> None:
        self._names = {"site": site, "line": line, "box": box}
        self._template = topic
        self._known: dict[tuple[str, str], str] = {}
        self.status = status_topic.format(**self._names)
        self.statuses = _of_every_box(status_topic, self._names)  # a filter: this line's boxes
        self.resend, self.command = (_beside(self.status, name) for name in ("resend", "command"))

    def of(self, station: str, kind: str) -> str:
        """Where live messages of a station go; backfill goes to the same with /backfill."""
        topic = self._known.get((station, kind))
        if topic is None:
            topic = self._template.format(**self._names, station=station, kind=kind)
            self._known[station, kind] = topic
        return topic

    def document(self, name: str) -> str:
        """Where a document of the box is kept published: beside its status."""
        return _beside(self.status, name)


def _of_every_box(template: str, names: dict[str, str]) -> str:
    """The status topic with + for the level that names the box."""
    levels = ("+" if "{box}" in level else level for level in template.split("/"))
    return "/".join(levels).format(**names)


def _beside(status: str, name: str) -> str:
    """lineside/site/line/box/status -> lineside/site/line/box/NAME"""
    return f"{status.removesuffix('/status')}/{name}"
