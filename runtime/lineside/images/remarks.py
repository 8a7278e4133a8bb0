"""What is odd about pictures that are read all the same: told once for each kind of oddity, with a count."""

from __future__ import annotations

from pathlib import Path


class Remarks:
    """Counts oddities by kind. `lines` is for standard error or a log."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}  # kind -> (how many pictures, the first)

    def add(self, kind: str, path: str | Path) -> bool:
        """`kind` says what is so and what to do, with "the picture" as its subject left out. True: the first one."""
        count, first = self._seen.get(kind, (0, shown(path)))
        self._seen[kind] = (count + 1, first)
        return count == 0

    def lines(self) -> list[str]:
        """One a kind."""
        return [
            f"image {first}: {kind}" if count == 1 else f"{count} images, the first is {first}: {kind}"
            for kind, (count, first) in self._seen.items()
        ]


def shown(path: str | Path) -> str:
    """A path as one line of valid text: control characters and bytes that are no UTF-8 are written as escapes."""
    return "".join(
        character if character.isprintable() or character == " " else repr(character)[1:-1] for character in str(path)
    )
