"""docs/sparkplug.md: every rule that it lists names a test that exists, and its metrics are those that are sent."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from lineside.deliver.sparkplug.metrics import DEVICE
from lineside.deliver.sparkplug.payload import BOOLEAN, DATETIME, DOUBLE, INT32, INT64, STRING
from lineside.deliver.sparkplug.session import NODE

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "sparkplug.md").read_text()
RULES = re.findall(r"^\| `(tck-id-[A-Za-z0-9-]+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
DATATYPE = {
    STRING: "String",
    INT32: "Int32",
    INT64: "Int64",
    DOUBLE: "Double",
    BOOLEAN: "Boolean",
    DATETIME: "DateTime",
}


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_the_page_lists_the_rules_once_each() -> None:
    names = [rule for rule, _, _ in RULES]
    assert len(names) == len(set(names))
    assert len(names) == PAGE.count("| `tck-id-"), "a row that this test cannot read"
    assert len(names) > 150


@pytest.mark.parametrize(("rule", "how", "test"), RULES, ids=[rule for rule, _, _ in RULES])
def test_a_rule_names_a_test_that_exists_or_says_why_it_does_not_apply(rule: str, how: str, test: str) -> None:
    if test == "-":
        assert how.startswith(("does not apply: ", "not checked: ")), rule
        return
    found = re.fullmatch(r"`(tests/\w+\.py)::(test_\w+)`", test)
    assert found is not None, test
    assert found[2] in functions_of(ROOT / found[1])


def test_the_table_of_metrics_is_what_devices_report() -> None:
    told: dict[str, str] = {}
    for names, types in re.findall(r"^\| (`(?:Record|Decision|Event|Gap)/.+?`) \| ([\w, ]+) \|", PAGE, re.MULTILINE):
        words = re.findall(r"`(.+?)`", names)
        kinds = types.split(", ")
        first = words[0].rsplit("/", 1)[0]
        full = [word if not word.startswith("/") else first + word for word in words]
        told.update(zip(full, kinds * len(full) if len(kinds) == 1 else kinds, strict=False))
    assert told == {name: DATATYPE[datatype] for name, datatype in DEVICE.items()}
    assert all(f"`{name}`" in PAGE for name in NODE)
