"""Class names in the forms that trainers and exporters leave them in, as one list in class order.

Plain lists, numbered lists (Teachable Machine, Coral), YAML (Ultralytics' data.yaml), JSON (Hugging Face, COCO, Keras),
CSV and TensorFlow's label maps. What is of such a form and cannot be understood is refused, never taken line by line.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from lineside.errors import ConfigError

MAX_BYTES = 4 << 20
FORMS = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".csv": "CSV", ".tsv": "CSV", ".pbtxt": "a label map"}
UNUSED = "n/a"  # a class that the model has and nobody named
_MOST_GAPS = 1000  # ids of one list that nobody named: more, and they are no class numbers

_NUMBERED = re.compile(r"(\d{1,6})(?:\s*[:,;)=\t]\s*|\.\s+|\s+-\s+|\s+)(\S.*)")
_NAME_COLUMNS = ("display_name", "name", "label", "class_name", "classname", "class", "category")
_ID_COLUMNS = ("id", "index", "class_id", "classid", "class_index", "idx", "number")


class Labels(NamedTuple):
    """`form` says how the file was read where it is no plain list; "" for one.

    Where numbers begin at 1 a model may count the first of them as its class 0 or as its class 1: `names` has "n/a" for
    class 0 then, and `closed` has them one after the other, without gaps; else `closed` is empty.
    """

    names: tuple[str, ...]
    form: str = ""
    closed: tuple[str, ...] = ()


class _Unread(Exception):
    """Why a file of some form tells no names."""


def read_labels(text: bytes, where: str) -> Labels:
    """The class names of a label file, in class order. Raises ConfigError that names the form that it does not take."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"labels {where}: larger than {MAX_BYTES >> 20} MB: give a text file, one label a line")
    try:
        content = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels {where}: not UTF-8 text ({error}): save it as UTF-8, one label a line") from error
    kind = _kind(content, PurePath(where).suffix.lower())
    readers = {"JSON": _json, "YAML": _yaml, "CSV": _csv, "a label map": _pbtxt}
    if kind in readers:
        try:
            return _whole(readers[kind](content), kind)
        except _Unread as error:
            raise ConfigError(
                f"labels {where}: is {kind}, and {error}: write the class names alone, one a line, in class order"
            ) from error
    if kind:
        raise ConfigError(f"labels {where}: is {kind}: write the class names alone, one a line, in class order")
    names = parse_labels(text, where)
    return _numbered(names) or Labels(names)


def parse_labels(text: bytes, where: str) -> tuple[str, ...]:
    """One label a line, in the order of the model's classes; blank lines at the end are dropped. Raises ConfigError."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"labels {where}: larger than {MAX_BYTES >> 20} MB: give a text file, one label a line")
    try:
        lines = [line.strip() for line in text.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"labels {where}: not UTF-8 text ({error}): save it as UTF-8, one label a line") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ConfigError(f"labels {where}: no label in it: write one label a line, in the order of the classes")
    if "" in lines:
        raise ConfigError(
            f"labels {where}: line {lines.index('') + 1} is blank, so it is not clear which class comes next: "
            f'write "{UNUSED}" for a class that the model does not use'
        )
    return tuple(lines)


def _kind(content: str, suffix: str) -> str:
    """The form of a file by its suffix and first characters; "" for a list of lines."""
    by_suffix = {
        ".json": "JSON",
        ".yaml": "YAML",
        ".yml": "YAML",
        ".csv": "CSV",
        ".tsv": "CSV",
        ".pbtxt": "a label map",
    }
    if suffix in by_suffix:
        return by_suffix[suffix]
    begin = content.lstrip()
    if begin[:1] == "{" or (begin[:1] == "[" and begin.rstrip().endswith("]")):
        return "JSON"
    if begin[:1] == "<":
        return "XML or HTML"
    if re.match(r"(?:\w+\s*)?(?:item|entry)\s*:?\s*\{", begin):
        return "a label map"
    if re.search(r"(?m)^(?:(?:names|nc|id2label)\s*:|(?:labels|classes)\s*:\s*(?:\[|$))", content) or begin.startswith(
        ("---", "%YAML")
    ):
        return "YAML"
    return ""


def _whole(found: Mapping[int, str] | Sequence[str], form: str) -> Labels:
    """Names by class number -> one for each class from 0; those that nobody named are "n/a"."""
    by_id = dict(found) if isinstance(found, Mapping) else dict(enumerate(found))
    if not by_id:
        raise _Unread("holds no class names")
    if max(by_id) + 1 - len(by_id) > _MOST_GAPS:
        raise _Unread(f"numbers {len(by_id)} classes up to {max(by_id)}")
    # a line break in a name would make two classes of it
    names = {number: " ".join(name.split()) or UNUSED for number, name in by_id.items()}
    whole = tuple(names.get(number, UNUSED) for number in range(max(names) + 1))
    return Labels(whole, form, () if 0 in names else tuple(names[number] for number in sorted(names)))


# --- numbered lists


def _numbered(lines: Sequence[str]) -> Labels | None:
    """Lines "0 Name", "0: Name", ... by their number; None where the numbers belong to the names ("3 mm", "5 mm")."""
    found = [_NUMBERED.fullmatch(line) for line in lines]
    rows = [(int(each[1]), each[2].strip()) for each in found if each]
    numbers = [number for number, _ in rows]
    every = len(rows) == len(lines) and len(set(numbers)) == len(rows)
    if not every or min(numbers) > 1 or (len(rows) == 1 and numbers != [0]):
        return None
    if len(rows) > 1 and len({name for _, name in rows}) == 1:
        return None
    try:
        return _whole(dict(rows), "a numbered list")
    except _Unread:
        return None


# --- JSON


def _json(content: str) -> Mapping[int, str] | Sequence[str]:
    try:
        return _of_tree(json.loads(content))
    except ValueError as error:
        try:
            return _of_tree(ast.literal_eval(content.strip()))  # Python's own way to write it: {0: 'a', 1: 'b'}
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise _Unread(f"is damaged ({error})") from error


def _of_tree(tree: Any) -> Mapping[int, str] | Sequence[str]:
    """A list of names, a map of them by number or number by name, or one of these under a key that is known for it."""
    if isinstance(tree, dict):
        for key in ("names", "id2label", "categories", "labels", "classes", "class_names", "label2id"):
            if isinstance(tree.get(key), (dict, list)):
                return _of_tree(tree[key])
    if isinstance(tree, list):
        if all(isinstance(each, str) for each in tree):
            return [str(each) for each in tree]
        if tree and all(isinstance(each, dict) for each in tree):
            return _of_records(tree)
    if isinstance(tree, dict) and tree:
        if all(_is_number(key) for key in tree):
            return {int(key): _name(value) for key, value in tree.items()}
        if all(type(value) is int or (isinstance(value, str) and value.isdigit()) for value in tree.values()):
            if len({int(value) for value in tree.values()}) < len(tree):
                raise _Unread("gives one class number to two names")
            return {int(value): str(key) for key, value in tree.items()}
    raise _Unread("holds no list of names, and no map of names and class numbers")


def _of_records(rows: Sequence[Mapping[str, Any]]) -> Mapping[int, str] | Sequence[str]:
    names = [next((row[key] for key in _NAME_COLUMNS if key in row), None) for row in rows]
    if not all(isinstance(name, str) for name in names):
        raise _Unread(f"its entries have no {' or '.join(_NAME_COLUMNS)}")
    ids = [next((row[key] for key in _ID_COLUMNS if key in row), None) for row in rows]
    if all(number is None for number in ids):
        return [str(name) for name in names]
    numbers = [int(number) for number in ids if number is not None and _is_number(number)]
    if len(set(numbers)) < len(ids):
        raise _Unread("its class numbers are missing, or there twice")
    return {number: str(name) for number, name in zip(numbers, names, strict=True)}


def _name(value: Any) -> str:
    """Keras' class index has ["n01440764", "tench"]: the last is for people."""
    if isinstance(value, list) and value and isinstance(value[-1], str):
        return str(value[-1])
    if isinstance(value, dict):
        return str(next((value[key] for key in _NAME_COLUMNS if key in value), ""))
    if isinstance(value, (list, dict)) or value is None:
        raise _Unread(f"{value!r} is no name")
    return str(value)


def _is_number(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value.strip().isdigit())


# --- YAML: what such files hold, not all of YAML


def _yaml(content: str) -> Mapping[int, str] | Sequence[str]:
    lines = [line for line in map(_without_comment, content.splitlines()) if line.strip() not in ("", "---", "...")]
    for key in ("names", "id2label", "labels", "classes"):
        for at, line in enumerate(lines):
            if found := re.match(rf"\s*[\"']?{key}[\"']?\s*:\s*(.*)$", line):
                return _below(lines, at, found[1].strip())
    return _block(lines)


def _below(lines: Sequence[str], at: int, beside: str) -> Mapping[int, str] | Sequence[str]:
    """What stands under a key: beside it in brackets, or in the lines below that are further in (or begin with -)."""
    if beside:
        if beside[0] not in "[{":
            raise _Unread(f"{lines[at].strip()!r} is no list of names")
        rest, depth = [beside], beside.count(beside[0]) - beside.count("]" if beside[0] == "[" else "}")
        for line in lines[at + 1 :]:
            if depth <= 0:
                break
            rest.append(line.strip())
            depth += line.count(beside[0]) - line.count("]" if beside[0] == "[" else "}")
        return _flow(" ".join(rest))
    indent = _indent(lines[at])
    block = []
    for line in lines[at + 1 :]:
        if _indent(line) < indent or (_indent(line) == indent and not line.lstrip().startswith("-")):
            break
        block.append(line)
    return _block(block)


def _block(lines: Sequence[str]) -> Mapping[int, str] | Sequence[str]:
    if not lines:
        raise _Unread('holds no "names"')
    if len(lines) == 1 and lines[0].lstrip()[:1] in ("[", "{"):
        return _flow(lines[0].strip())
    if len({_indent(line) for line in lines}) > 1:
        raise _Unread('its names lie deeper than lineside reads (give "names" as a list, or as number: name)')
    texts = [line.strip() for line in lines]
    if all(text.startswith("- ") for text in texts):
        return [_scalar(text[2:]) for text in texts]
    return _pairs(texts)


def _flow(text: str) -> Mapping[int, str] | Sequence[str]:
    """[a, 'b'] or {0: a, 1: b}"""
    inner, close = text[1:].rstrip(), "]" if text[0] == "[" else "}"
    if not inner.endswith(close):
        raise _Unread(f"its list has no {close!r} at its end")
    items = [item for item in _split(inner[:-1]) if item.strip()]
    return [_scalar(item) for item in items] if close == "]" else _pairs(items)


def _pairs(texts: Sequence[str]) -> Mapping[int, str]:
    found: dict[int, str] = {}
    by_name: dict[int, str] = {}
    for text in texts:
        key, colon, value = _cut(text)
        if not colon or not value.strip():
            raise _Unread(f"{text!r} is no class number and name")
        if _is_number(key) and int(key) not in found:
            found[int(key)] = _scalar(value)
        elif not _is_number(key) and _is_number(_scalar(value)) and int(_scalar(value)) not in by_name:
            by_name[int(_scalar(value))] = key
        else:
            raise _Unread(f"{text!r} is no class number and name, or is there twice")
    if found and by_name:
        raise _Unread("it is not clear which are class numbers")
    return found or by_name


def _cut(text: str) -> tuple[str, str, str]:
    """A line "key: value", the key without quotes."""
    quoted = re.match(r"\s*([\"'])(.*?)\1\s*:\s+(.*)$", text)
    if quoted:
        return quoted[2], ":", quoted[3]
    key, colon, value = text.partition(":")
    return key.strip(), colon, value


def _split(text: str) -> list[str]:
    """At commas that stand in no quotes."""
    return [part[0] for part in re.finditer(r"(?:[^,\"']|\"(?:\\.|[^\"])*\"|'(?:''|[^'])*')+", text)]


def _scalar(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    if text[:1] in ("&", "*", "!", "|", ">", "[", "{"):
        raise _Unread(f"{text!r} is more of YAML than lineside reads")
    return text


def _without_comment(line: str) -> str:
    quote = ""
    for at, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'" and (at == 0 or line[at - 1] in " ,[{:"):
            quote = letter
        elif letter == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at].rstrip()
    return line.rstrip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


# --- CSV and label maps


def _csv(content: str) -> Mapping[int, str] | Sequence[str]:
    first = content.splitlines()[0] if content.strip() else ""
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(content), delimiter=delimiter) if any(cell.strip() for cell in row)]
    if not rows:
        raise _Unread("holds no class names")
    head = [cell.strip().lower() for cell in rows[0]]
    names = [head.index(key) for key in _NAME_COLUMNS if key in head]
    ids = [head.index(key) for key in _ID_COLUMNS if key in head]
    if names or ids:
        if not names:
            raise _Unread(f"its header {', '.join(rows[0])} names no column of class names")
        if any(len(row) < len(head) for row in rows[1:]):
            raise _Unread("a line has fewer columns than its header")
        records = [{"name": row[names[0]], **({"id": row[ids[0]]} if ids else {})} for row in rows[1:]]
        return _of_records(records)
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    if all(len(row) == 2 for row in rows):
        for number, name in ((0, 1), (1, 0)):
            if all(_is_number(row[number]) for row in rows):
                return _of_records([{"id": row[number], "name": row[name]} for row in rows])
    raise _Unread("its header names no column of class names (name, label, class)")


def _pbtxt(content: str) -> Mapping[int, str]:
    found: dict[int, str] = {}
    for item in re.findall(r"(?:item|entry)\s*:?\s*\{(.*?)\}", content, re.DOTALL):
        number = re.search(r"\bid\s*:\s*(\d+)", item)
        names = dict(re.findall(r"\b(display_name|name)\s*:\s*[\"'](.*?)[\"']\s*(?:$|,|\n)", item, re.MULTILINE))
        name = names.get("display_name") or names.get("name")
        if number is None or name is None or int(number[1]) in found:
            raise _Unread("an item has no id or name, or one id is there twice")
        found[int(number[1])] = name
    return found
