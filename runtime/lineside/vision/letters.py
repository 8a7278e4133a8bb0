"""Text as OpenCV's own fonts draw it: which letters they have, and Hebrew and Arabic in the order that is read.

OpenCV 5 carries two fonts (Rubik, OFL; WenQuanYi Micro Hei, Apache-2.0) with Latin, Cyrillic, Greek, Hebrew, Arabic,
Chinese, Japanese and Korean. It draws from left to right, so letters that are read the other way are turned around
here; those of Arabic stand side by side, as the fonts have no joined ones. OpenCV 4 has ASCII alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import groupby, pairwise

from lineside.records import Image

_MISSING = "?"
_RIGHT_TO_LEFT = ("R", "AL")


def drawable(text: str) -> str:
    """The text as `cv2.putText` should be given it: in visual order, a "?" for each letter that no font has.

    A letter with an accent that the fonts lack loses the accent.
    """
    if text.isascii():
        return text
    return "".join(_or_plain(letter) for letter in _visual(unicodedata.normalize("NFC", text)))


def undrawable(texts: Iterable[str]) -> list[str]:
    """Of these texts those that hold a letter which is drawn as "?"."""
    return [text for text in texts if drawable(text).count(_MISSING) > text.count(_MISSING)]


def _or_plain(letter: str) -> str:
    if _drawn(letter):
        return letter
    plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
    return plain if plain and all(map(_drawn, plain)) else "" if unicodedata.combining(letter) else _MISSING


@lru_cache(4096)
def _drawn(letter: str) -> bool:
    """Whether a font has the letter: OpenCV draws a question mark for one that none has."""
    import cv2
    import numpy as np

    if letter.isascii():
        return letter.isprintable()
    if not hasattr(cv2, "FontFace"):
        return False
    return not np.array_equal(_picture(letter), _picture(_MISSING))


def _picture(letter: str) -> Image:
    import cv2
    import numpy as np

    paper = np.zeros((40, 60, 3), np.uint8)
    cv2.putText(paper, letter, (4, 30), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 1, cv2.LINE_AA)
    return paper


def _visual(text: str) -> str:
    """The letters from left to right: runs that are read from right to left are turned around."""
    if not any(unicodedata.bidirectional(letter) in _RIGHT_TO_LEFT for letter in text):
        return text
    return "".join("".join(reversed(_clusters(run))) if backwards else run for run, backwards in _runs(text))


def _runs(text: str) -> list[tuple[str, bool]]:
    """Parts of one direction; spaces and marks between letters of one direction belong to them, others go forward."""
    kinds = [unicodedata.bidirectional(letter) for letter in text]
    backwards = [kind in _RIGHT_TO_LEFT for kind in kinds]
    strong = [at for at, kind in enumerate(kinds) if kind in (*_RIGHT_TO_LEFT, "L", "EN", "AN")]
    for before, after in pairwise(strong):
        if backwards[before] and backwards[after]:
            backwards[before:after] = [True] * (after - before)
    for at, kind in enumerate(kinds):
        if kind == "NSM" and at:
            backwards[at] = backwards[at - 1]
    parts = groupby(zip(text, backwards, strict=True), key=lambda pair: pair[1])
    return [("".join(letter for letter, _ in part), direction) for direction, part in parts]


def _clusters(text: str) -> list[str]:
    """Letters, each with the marks above and below it."""
    found: list[str] = []
    for letter in text:
        if found and unicodedata.bidirectional(letter) == "NSM":
            found[-1] += letter
        else:
            found.append(letter)
    return found
