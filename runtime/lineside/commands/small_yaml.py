"""The small part of YAML that exporters write beside a model: maps, lists and scalars, by indentation or in brackets.

What is beyond it (anchors, tags, several documents, block texts) is refused by line, never guessed. A parser of all of
YAML would be a dependency of the core for two kinds of small files.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_BEYOND = ("&", "*", "!", "|", ">", "%", "@", "`")


class _Line(NamedTuple):
    number: int
    indent: int
    text: str


def parse(text: str) -> Any:
    """Raises ValueError with the line that is beyond the subset."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 20} MB")
    lines: list[_Line] = []
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), 1):
        bare = _without_comment(raw).rstrip()
        if not bare.strip() or (bare == "---" and not lines):
            continue
        if bare == "...":
            break
        indent = len(bare) - len(bare.lstrip(" "))
        if bare[indent] == "\t":
            raise ValueError(f"line {number}: a tab before the text")
        lines.append(_Line(number, indent, bare[indent:]))
    if not lines:
        return None
    value, rest = _block(_joined(lines), 0, 0)
    if rest:
        raise ValueError(f"line {rest[0].number}: indented otherwise than the lines before")
    return value


def _joined(lines: list[_Line]) -> list[_Line]:
    """Lines of one bracket become one."""
    joined: list[_Line] = []
    for line in lines:
        if joined and _open(joined[-1].text) > 0:
            joined[-1] = joined[-1]._replace(text=f"{joined[-1].text} {line.text}")
        else:
            joined.append(line)
    return joined


def _open(text: str) -> int:
    """How many brackets are open at its end, outside of quotes."""
    depth, quote = 0, ""
    for at, mark in enumerate(text):
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"" and (at == 0 or text[at - 1] in " [{,:"):
            quote = mark
        elif mark in "[{" and (depth or at == 0 or text[at - 1] == " "):
            depth += 1
        elif mark in "]}" and depth:
            depth -= 1
    return depth


def _block(lines: list[_Line], indent: int, depth: int) -> tuple[Any, list[_Line]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"line {lines[0].number}: nested too deep")
    first = lines[0]
    if first.text.startswith("- ") or first.text == "-":
        return _list(lines, first.indent, depth)
    if _split(first.text) is not None:
        return _map(lines, first.indent, depth)
    if len(lines) > 1 and lines[1].indent >= indent:
        raise ValueError(f"line {first.number}: neither a key nor an entry of a list")
    return _scalar(first.text, first.number, depth), lines[1:]


def _list(lines: list[_Line], indent: int, depth: int) -> tuple[list[Any], list[_Line]]:
    found: list[Any] = []
    while lines and lines[0].indent == indent and (lines[0].text == "-" or lines[0].text.startswith("- ")):
        line = lines[0]
        inner = line.text[1:].lstrip()
        if not inner:
            value, lines = _below(lines[1:], indent + 1, depth)
        elif _split(inner) is not None and inner[0] not in "[{'\"":
            within = indent + len(line.text) - len(inner)
            value, lines = _map([_Line(line.number, within, inner), *lines[1:]], within, depth + 1)
        else:
            value, lines = _scalar(inner, line.number, depth), lines[1:]
        found.append(value)
    return found, lines


def _map(lines: list[_Line], indent: int, depth: int) -> tuple[dict[Any, Any], list[_Line]]:
    found: dict[Any, Any] = {}
    while lines and lines[0].indent == indent and (parts := _split(lines[0].text)) is not None:
        line, (name, rest) = lines[0], parts
        key = _scalar(name, line.number, depth)
        if key in found:
            raise ValueError(f"line {line.number}: {key!r} is there twice")
        if rest:
            found[key], lines = _scalar(rest, line.number, depth), lines[1:]
        else:
            listed = len(lines) > 1 and lines[1].indent == indent and lines[1].text.startswith("-")
            found[key], lines = _below(lines[1:], indent if listed else indent + 1, depth)
    return found, lines


def _below(lines: list[_Line], least: int, depth: int) -> tuple[Any, list[_Line]]:
    if not lines or lines[0].indent < least:
        return None, lines
    return _block(lines, lines[0].indent, depth + 1)


def _split(text: str) -> tuple[str, str] | None:
    """ "key: rest" outside of quotes and brackets, or None."""
    if text[0] in "[{":
        return None
    quote, at = "", 0
    while at < len(text):
        mark = text[at]
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"" and at == 0:
            quote = mark
        elif mark == ":" and text[at + 1 : at + 2] in ("", " "):
            return text[:at].strip(), text[at + 1 :].strip()
        at += 1
    return None


def _scalar(text: str, line: int, depth: int) -> Any:
    text = text.strip()
    if text[:1] in ("[", "{"):
        value, rest = _flow(text, line, depth)
        if rest.strip():
            raise ValueError(f"line {line}: {rest.strip()[:20]!r} after a bracket")
        return value
    if text[:1] in ("'", '"'):
        value, rest = _quoted(text, line)
        if rest.strip():
            raise ValueError(f"line {line}: {rest.strip()[:20]!r} after a quoted text")
        return value
    if text[:1] in _BEYOND:
        raise ValueError(f"line {line}: {text[:20]!r} is beyond the part of YAML that is read here")
    return _plain(text)


def _plain(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):
        return float(text) if set(".eE") & set(text) else int(text)
    return text


def _quoted(text: str, line: int) -> tuple[str, str]:
    quote, at, found = text[0], 1, []
    escapes = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "/": "/", "0": "\0", "r": "\r"}
    while at < len(text):
        mark = text[at]
        if quote == "'" and text[at : at + 2] == "''":
            found.append("'")
            at += 2
        elif quote == '"' and mark == "\\":
            code = text[at + 1 : at + 2]
            size = {"x": 2, "u": 4, "U": 8}.get(code, 0)
            try:
                found.append(chr(int(text[at + 2 : at + 2 + size], 16)) if size else escapes[code])
            except (KeyError, ValueError, OverflowError):
                raise ValueError(f"line {line}: escape \\{code} in a quoted text") from None
            at += 2 + size
        elif mark == quote:
            return "".join(found), text[at + 1 :]
        else:
            found.append(mark)
            at += 1
    raise ValueError(f"line {line}: a quoted text without end")


def _flow(text: str, line: int, depth: int) -> tuple[Any, str]:
    """[a, b] or {a: b}, and what follows it."""
    if depth > MAX_DEPTH:
        raise ValueError(f"line {line}: nested too deep")
    closing = "]" if text[0] == "[" else "}"
    entries: list[Any] = []
    pairs: dict[Any, Any] = {}
    rest = text[1:].lstrip()
    while rest and rest[0] != closing:
        value, rest = _item(rest, line, depth, "," + closing if closing == "]" else ",:" + closing)
        if closing == "}":
            pairs[value] = None
            if rest[:1] == ":":
                pairs[value], rest = _item(rest[1:].lstrip(), line, depth, ",}")
        else:
            entries.append(value)
        if rest[:1] == ",":
            rest = rest[1:].lstrip()
    if not rest:
        raise ValueError(f"line {line}: a bracket without end")
    return (entries if closing == "]" else pairs), rest[1:]


def _item(text: str, line: int, depth: int, ends: str) -> tuple[Any, str]:
    if text[:1] in ("[", "{"):
        value, rest = _flow(text, line, depth + 1)
        return value, rest.lstrip()
    if text[:1] in ("'", '"'):
        value, rest = _quoted(text, line)
        return value, rest.lstrip()
    at = 0
    while at < len(text) and not (text[at] in ends and (text[at] != ":" or text[at + 1 : at + 2] in ("", " "))):
        at += 1
    return _scalar(text[:at], line, depth) if text[:at].strip() else None, text[at:]


def _without_comment(line: str) -> str:
    quote = ""
    for at, mark in enumerate(line):
        if quote:
            quote = "" if mark == quote else quote
        elif mark in "'\"" and (at == 0 or line[at - 1] in " [{,:-"):
            quote = mark
        elif mark == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at]
    return line
