"""Checks a message against the JSON Schema that ships with lineside; the part of draft 2020-12 that those use.

No jsonschema package: `lineside subscribe` works on any box that has lineside. Tests hold the two against each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

Rule: TypeAlias = Mapping[str, Any]  # a JSON Schema

KINDS = (
    *("decision", "event", "gap", "recipe", "evidence", "in_doubt", "audit"),  # of the journal
    *("status", "checkpoint", "health", "reply", "doctor"),
)
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


@cache
def schema(kind: str) -> Rule:
    """The JSON Schema of one of KINDS."""
    loaded: Rule = json.loads((Path(__file__).parent / "schema" / f"{kind}.json").read_text())
    return loaded


def faults(message: object) -> list[str]:
    """What is wrong with a message, a line each with its path; empty for a valid one."""
    kind = message.get("kind") if isinstance(message, dict) else None
    if kind not in KINDS:
        return [f"kind = {kind!r}: must be one of {', '.join(KINDS)}"]
    return list(_faults(message, schema(str(kind)), ""))


def _faults(value: object, rule: Rule, path: str) -> list[str]:
    where = path or "message"
    types = rule.get("type")
    if types is not None and not any(_is(value, name) for name in ([types] if isinstance(types, str) else types)):
        return [f"{where} = {value!r}: must be {types if isinstance(types, str) else ' or '.join(types)}"]
    found: list[str] = []
    if "const" in rule and (value != rule["const"] or isinstance(value, bool)):
        found.append(f"{where} = {value!r}: must be {rule['const']!r}")
    if "enum" in rule and value not in rule["enum"]:
        found.append(f"{where} = {value!r}: must be one of {rule['enum']}")
    if isinstance(value, str):
        found += _text_faults(value, rule, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        found += _number_faults(value, rule, where)
    elif isinstance(value, list):
        found += _list_faults(value, rule, path)
    elif isinstance(value, dict):
        found += _object_faults(value, rule, path)
    return found


def _is(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _text_faults(value: str, rule: Rule, where: str) -> list[str]:
    found = []
    if len(value) < rule.get("minLength", 0):
        found.append(f"{where}: must not be empty")
    if "pattern" in rule and not re.search(str(rule["pattern"]), value):
        found.append(f"{where} = {value!r}: must look like {rule['pattern']}")
    return found


def _number_faults(value: float, rule: Rule, where: str) -> list[str]:
    found = []
    if "minimum" in rule and value < rule["minimum"]:
        found.append(f"{where} = {value}: must be at least {rule['minimum']}")
    if "exclusiveMinimum" in rule and value <= rule["exclusiveMinimum"]:
        found.append(f"{where} = {value}: must be above {rule['exclusiveMinimum']}")
    if "maximum" in rule and value > rule["maximum"]:
        found.append(f"{where} = {value}: must be at most {rule['maximum']}")
    return found


def _list_faults(value: list[object], rule: Rule, path: str) -> list[str]:
    found = []
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        found.append(f"{path}: has {len(value)} items: must have {rule.get('minItems')} to {rule.get('maxItems')}")
    items = rule.get("items")
    if isinstance(items, dict):
        for index, item in enumerate(value):
            found += _faults(item, items, f"{path}[{index}]")
    return found


def _object_faults(value: dict[str, object], rule: Rule, path: str) -> list[str]:
    found = [f"{_join(path, key)}: missing" for key in rule.get("required", []) if key not in value]
    known = rule.get("properties", {})
    others = rule.get("additionalProperties")
    for key, item in value.items():
        inner = known.get(key, others)
        if isinstance(inner, dict):
            found += _faults(item, inner, _join(path, key))
    condition = rule.get("if")
    if isinstance(condition, dict):
        branch = rule.get("else" if _faults(value, condition, path) else "then")
        if isinstance(branch, dict):
            found += _faults(value, branch, path)
    return found


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
