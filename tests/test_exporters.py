"""Decoders against the exporting projects' own tools, on models that those exported.

Each project runs in a venv of its own (`tools/setup_exporters.sh`), most with random weights; the scripts that run
there are in tests/exporters, tools/exporters.py calls them. What they find in real photos with their own preparation
and post-processing is what `lineside infer` must find with a bundle that `lineside bundle new` made of the exported
file: scores within 0.01, boxes with an IoU of 0.98.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import exporters
from exporters import CELLS, Cell, Json

pytestmark = [pytest.mark.exporter, pytest.mark.timeout(3600), pytest.mark.xdist_group("exporter")]

_done: dict[str, tuple[Path, Json] | Exception] = {}


def exported(project: str, data: Path) -> tuple[Path, Json]:
    """A project's exports, made once; skips where its venv is absent."""
    if project not in _done:
        try:
            _done[project] = exporters.exports(project, data)
        except (FileNotFoundError, RuntimeError) as error:
            _done[project] = error
    found = _done[project]
    if isinstance(found, FileNotFoundError):
        pytest.skip(f"{found}: `make test-exporters` sets it up and runs these tests")
    if isinstance(found, Exception):
        raise found
    return found


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_an_export_gives_what_its_own_project_finds_in_the_same_pictures(
    data: Path, tmp_path: Path, cell: Cell
) -> None:
    folder, rows = exported(cell.project, data)
    row = rows[cell.variant]
    assert "error" not in row, row["error"]
    found = exporters.measure(cell, row, folder, tmp_path)
    assert found.right, found


@pytest.mark.parametrize("variant", ["yolo11-onnx", "yolo26-onnx"])
def test_a_yolo_export_needs_no_option(data: Path, tmp_path: Path, variant: str) -> None:
    folder, rows = exported("ultralytics", data)
    row = rows[variant] | {"options": [], "labels": []}
    ran = exporters.new_bundle(row, folder, tmp_path / "bundle")
    assert "80 labels, 'thing 0' first" in ran.stdout, ran.stderr
    shown = exporters.lineside("bundle", "show", tmp_path / "bundle").stdout
    assert "input      320 x 320, rgb, nchw, letterbox" in shown


def test_the_map_of_an_anomalib_export_is_its_inferencers_map(data: Path, tmp_path: Path) -> None:
    from lineside.commands.infer import Eye
    from lineside.images import read_image
    from lineside.records import AnomalyMap
    from lineside.store.bundle import open_bundle

    folder, rows = exported("anomalib", data)
    row = rows["padim-onnx"]
    assert exporters.new_bundle(row, folder, tmp_path / "bundle").status == 0
    eye = Eye(open_bundle(str(tmp_path / "bundle")), "onnxruntime", None)
    for picture, wanted in row["sized"].items():
        seen, _ = eye.see(read_image(picture))
        assert isinstance(seen, AnomalyMap)
        assert seen.heat is not None
        heat = np.load(folder / wanted["map"])
        assert heat.std() > 0.01
        np.testing.assert_allclose(seen.heat, heat, atol=1e-3)
