"""The words for what is wrong with lineside.toml: one line per fault, path = value: what is allowed."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from lineside.checked import Fault, json_schema
from lineside.config import Config
from lineside.config.stations import NAME_PATTERN

_NAME_WORDS = "letters, digits and _ . - (a letter or digit first), 64 at most"


def lines(faults: Sequence[Fault], tree: dict[str, Any]) -> list[str]:
    """One line per fault: path = value: what is allowed. The branches of a union say theirs in one line."""
    said: dict[str, list[str]] = {}
    for fault in faults:
        head, allowed = _line(fault, tree)
        said.setdefault(head, []).append(allowed)
    return [f"{head}: {', or '.join(dict.fromkeys(allowed))}" for head, allowed in said.items()]


def _line(fault: Fault, tree: dict[str, Any]) -> tuple[str, str]:
    """(path = value, what is allowed) of one fault."""
    message = fault.message.removeprefix("Value error, ")
    if message.startswith("@"):  # a cross-check that names its own path
        head, _, allowed = message[1:].partition(": ")
        return head, allowed
    kind, loc, value, context = fault.kind, fault.path, fault.value, fault.context
    path = _path(loc, tree, absent=kind == "missing")
    if kind == "unexpected_keyword_argument":
        return path, f"unknown key{_meant(str(loc[-1]), loc[:-1])}"
    if kind == "missing":
        return path, "missing: add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        names = re.findall(r"'([^']*)'", context.get("expected_tags", "")) or _tags(loc, key)
        if kind == "union_tag_invalid":
            return f"{path}.{key} = {_show(context['tag'])}", _one_of(context["tag"], names)
        slip = difflib.get_close_matches(key, value if isinstance(value, dict) else (), n=1)
        return f"{path}.{key}", (f"missing; {slip[0]!r} stands there: " if slip else "missing: ") + _one_of("", names)
    if loc and loc[-1] == "[key]":
        return path, f"not allowed as a name: {_NAME_WORDS}"
    if kind == "string_pattern_mismatch" and context.get("pattern") == NAME_PATTERN:
        message = _NAME_WORDS
    if kind in ("dict_type", "dataclass_type", "model_attributes_type"):
        return f"{path} = {_show(value)}", "expected a table"
    return (path if isinstance(value, dict | list) else f"{path} = {_show(value)}"), message


def _one_of(value: str, names: list[str]) -> str:
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    return f"allowed are {', '.join(names)}" + (f"; did you mean {near[0]!r}?" if near else "")


def _tags(loc: tuple[int | str, ...], key: str) -> list[str]:
    """The values that tell the members of a union apart."""
    return [str(leaf["properties"][key]["const"]) for leaf in _leaves(loc) if key in leaf.get("properties", {})]


def _path(loc: tuple[int | str, ...], tree: Any, absent: bool) -> str:
    """`cameras.gate.fps`: the location without tags of unions; `absent`: its last step is the missing key."""
    out = ""
    at: Any = tree
    tagged = False  # the tag of the union at this place has gone by: it may be spelt like a key, as zone is
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(at, dict) and not tagged and step in (at.get("driver"), at.get("kind")):
            tagged = True
            continue
        if isinstance(at, list):
            inside = isinstance(step, int) and step < len(at)
        else:
            inside = isinstance(at, dict) and step in at
        if not inside and not (last and absent):
            continue  # the tag of another union
        out += f"[{step}]" if isinstance(step, int) else f"{'.' if out else ''}{step}"
        at, tagged = (at[step] if inside else None), False
    return out or "configuration"


def _show(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _meant(key: str, parent: tuple[int | str, ...]) -> str:
    """The nearest known key, looked for in the schema node that the path leads to."""
    known = _known_keys(parent)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed are {', '.join(sorted(known))}" if known else "; remove it"


def _known_keys(parent: tuple[int | str, ...]) -> list[str]:
    return [key for leaf in _leaves(parent) for key in leaf.get("properties", {})]


@cache
def _document() -> dict[str, Any]:
    return json_schema(Config)


def _leaves(parent: tuple[int | str, ...]) -> list[dict[str, Any]]:
    """The schemas that a location may have, unions taken apart."""
    document = _document()
    definitions = document.get("$defs", {})

    def options(node: dict[str, Any]) -> list[dict[str, Any]]:
        if "$ref" in node:
            return options(definitions[node["$ref"].rsplit("/", 1)[1]])
        for word in ("anyOf", "oneOf", "allOf"):
            if word in node:
                return [leaf for branch in node[word] for leaf in options(branch)]
        return [node]

    nodes = [document]
    for step in parent:
        leaves = [leaf for node in nodes for leaf in options(node)]
        found: list[dict[str, Any]] = []
        for leaf in leaves:
            if isinstance(step, str) and step in leaf.get("properties", {}):
                found.append(leaf["properties"][step])
            elif isinstance(step, int) and "items" in leaf:
                found.append(leaf["items"])
            elif isinstance(step, str) and isinstance(leaf.get("additionalProperties"), dict):
                found.append(leaf["additionalProperties"])
            elif isinstance(step, str) and isinstance(leaf.get("patternProperties"), dict):
                found += leaf["patternProperties"].values()
        if not found and isinstance(step, str):  # the tag of a union: keep the member with that constant
            found = [leaf for leaf in leaves if _tag_is(leaf, step)] or leaves
        nodes = found
    return [leaf for node in nodes for leaf in options(node)]


def _tag_is(leaf: dict[str, Any], tag: str) -> bool:
    return any(tag in (p.get("const"), p.get("default")) for p in leaf.get("properties", {}).values())
