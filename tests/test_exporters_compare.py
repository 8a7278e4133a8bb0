"""tools/exporters.py: the comparison with an exporter's own answers can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import exporters
from exporters import Cell, Difference

BOX = {"class_id": 0, "label": "thing 0", "score": 0.8, "box": [10.0, 10.0, 110.0, 60.0]}


def beside(found: list[dict[str, Any]]) -> Difference:
    difference = Difference(1)
    exporters._boxes([BOX], found, 0.25, difference)
    return difference


@pytest.mark.parametrize(
    "other",
    [
        {"label": "thing 1"},
        {"score": 0.78},
        {"box": [12.0, 10.0, 112.0, 60.0]},
        {"box": [110.0, 10.0, 210.0, 60.0]},
    ],
    ids=["class", "score", "place", "elsewhere"],
)
def test_a_finding_that_differs_is_told(other: dict[str, Any]) -> None:
    assert beside([BOX]).same
    assert not beside([BOX | other]).same
    assert not beside([]).same
    assert not beside([BOX, BOX | {"box": [0.0, 0.0, 5.0, 5.0]}]).same


def test_answers_that_are_all_alike_prove_nothing() -> None:
    assert exporters.alike({"sized": {"a": [], "b": []}})
    assert exporters.alike({"sized": {"a": [BOX], "b": [BOX]}})
    assert exporters.alike({"sized": {"a": [0.9, 0.1], "b": [0.8, 0.2]}})
    assert not exporters.alike({"sized": {"a": [0.9, 0.1], "b": [0.2, 0.8]}})
    assert not exporters.alike({"sized": {"a": [BOX], "b": [BOX | {"score": 0.3}]}})


def test_every_cell_is_of_a_project_that_has_a_script() -> None:
    assert {cell.project for cell in exporters.CELLS} == set(exporters.PROJECTS)
    for project in exporters.PROJECTS.values():
        assert (exporters.SCRIPTS / project.script).is_file()
    assert len({cell.name for cell in exporters.CELLS}) == len(exporters.CELLS)


def test_a_script_that_only_reads_otherwise_keeps_its_exports() -> None:
    before = '"""What it is."""\n\ndef one(a):\n    """Says one."""\n    return a + 1  # one more\n'
    after = "def one(a):\n\n    return (a +\n        1)\n"
    assert exporters._code(before) == exporters._code(after)
    assert exporters._code(before) != exporters._code(after.replace("1", "2"))


def test_an_export_that_failed_is_said_with_its_reason(tmp_path: Path) -> None:
    found = exporters.measure(Cell("timm", "x", "X"), {"error": "ValueError: no such layer"}, tmp_path, tmp_path)
    assert not found.right
    assert found.why == "ValueError: no such layer"


def test_a_refusal_counts_only_where_it_names_the_task(data: Path, tmp_path: Path) -> None:
    model = data / "models" / "detect" / "yolox_nano_416.onnx"
    answers = {"sized": {"a.png": [BOX], "b.png": [BOX | {"score": 0.3}]}}
    row = {"model": model.name, "tool": "x", "labels": ["thing 0"], "min_score": 0.25, **answers}
    for word, right in (("labels", True), ("oriented", False)):
        cell = Cell("timm", "x", "X", refused=word)
        folder = tmp_path / word
        folder.mkdir()
        found = exporters.measure(cell, json.loads(json.dumps(row)), model.parent, folder)
        assert found.right is right, found
