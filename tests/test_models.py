"""Every real model through a bundle made by `lineside bundle new`: the right answers, on one backend each.

tools/models_report.py runs the same checks on every backend and writes the table of docs/models.md.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lineside.cli import main
from lineside.commands.infer import Eye
from lineside.store.bundle import open_bundle

ROOT = Path(__file__).resolve().parents[1]
FIRST = {".onnx": "onnxruntime", ".tflite": "litert"}


def load_report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_report", ROOT / "tools" / "models_report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["models_report"] = module
    spec.loader.exec_module(module)
    return module


report = load_report()

# from the data's own README: AP50 on faces_mask/test and faces_dlib/test, faces of 20 px and more
AP50 = {
    "yunet_n_dynamic": (0.905, 1.000),
    "yunet_n_320_320": (0.882, 0.976),
    "yunet_s_320_320": (0.775, 1.000),
    "ultraface_rfb_320": (0.868, 1.000),
    "face_detection_full_range_sparse": (0.643, 0.999),
    "face_detection_short_range": (0.262, 0.312),
}
CLASSIFIED_RIGHT = {  # of nine photos; the smallest network confuses more than half
    "mobilenet_v1_0.25_128_quant": 4,
    "mobilenet_v2_1.0_224_quant": 9,
    "mobilenet_v2_224_fp32": 8,
    "mobilenet_v2_224_int8_qdq": 8,
}


def of(check: str) -> list[object]:
    return [pytest.param(model, id=Path(model.file).stem) for model in report.MODELS if model.check == check]


def open_eye(model: object, data: Path, folder: Path, min_score: float | None = None) -> Eye:
    bundle = open_bundle(report.make_bundle(model, data, folder))
    return Eye(bundle, FIRST[Path(bundle.artefacts[0].path).suffix], min_score)


@pytest.mark.parametrize("model", of("faces"))
def test_faces_are_found_as_well_as_by_the_reference(model: object, data: Path, tmp_path: Path) -> None:
    eye = open_eye(model, data, tmp_path, report.FACE_MIN_SCORE)
    for name, expected in zip(report.FACE_LISTS, AP50[eye.bundle.name], strict=True):
        assert abs(report.face_ap(eye, data, name) - expected) <= 0.01, name


@pytest.mark.parametrize("model", of("detected"))
def test_the_main_object_of_each_photo_is_named(model: object, data: Path, tmp_path: Path) -> None:
    eye = open_eye(model, data, tmp_path)
    assert sorted(report.named(eye, report.DETECTED, data)) == sorted(report.DETECTED)


@pytest.mark.parametrize("model", of("classified"))
def test_a_classifier_says_what_the_reference_says(model: object, data: Path, tmp_path: Path) -> None:
    eye = open_eye(model, data, tmp_path)
    assert len(report.named(eye, report.CLASSIFIED, data)) >= CLASSIFIED_RIGHT[eye.bundle.name]


@pytest.mark.parametrize("model", of("people"))
def test_a_person_is_told_from_no_person(model: object, data: Path, tmp_path: Path) -> None:
    assert sorted(report.named(open_eye(model, data, tmp_path), report.PEOPLE, data)) == sorted(report.PEOPLE)


def test_a_model_compiled_for_the_edge_tpu_is_packed_beside_the_plain_one(data: Path, tmp_path: Path) -> None:
    folder = data / "models"
    plain = folder / "detect/yolov8n_640_full_int8.tflite"
    compiled = folder / "edgetpu/yolov8n_640_full_int8_edgetpu.tflite"
    words = ["bundle", "new", plain, "--artefact", compiled, "--labels", folder / "labels/coco_labels_80.txt"]
    assert main([*map(str, words), "-o", str(tmp_path / "made")]) == 0
    bundle = open_bundle(tmp_path / "made")
    assert [artefact.format for artefact in bundle.artefacts] == ["tflite", "edgetpu"]
    assert Eye(bundle, "litert:cpu", None).backend == "litert:cpu"


def test_the_table_in_the_docs_has_every_model_that_is_there(data: Path) -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    there = {str(path.relative_to(data / "models")) for path in (data / "models").glob("*/*.[ot]*")}
    assert there
    missing = {name for name in there if name.endswith((".onnx", ".tflite")) and f"| {name} |" not in page}
    assert missing == set()
