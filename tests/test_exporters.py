"""Decoders with no trained model at hand, against the exporting project's own tool on a model that it exported.

Each project runs in a venv of its own (`tools/setup_exporters.sh`), with random weights; the scripts that run there
are in tests/exporters. What they find in the sample photos with their own preparation and post-processing is what
`lineside infer` must find with a bundle that `lineside bundle new` made out of the exported file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.exporter, pytest.mark.timeout(900), pytest.mark.xdist_group("exporter")]

HERE = Path(__file__).resolve().parent
VENVS = HERE.parent / "out" / "venvs"
PICTURES = ("pets.jpg", "cat.jpg", "kite_and_cold.jpg", "face.jpg")  # wide, high, with and without odd margins
Json = dict[str, Any]


def export(project: str, script: str, out: Path, *arguments: Path) -> Json:
    """Run a script in its project's venv; returns what it expects, by variant."""
    home = VENVS / project
    if not (home / "ready").exists():
        pytest.skip(f"no venv {home}: `make test-exporters` sets it up and runs these tests")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"YOLO_CONFIG_DIR": str(out), "CUDA_VISIBLE_DEVICES": ""}
    command = [home / "bin" / "python", HERE / "exporters" / script, out, *arguments]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert ran.returncode == 0, f"{script} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    answer: Json = json.loads((out / "expected.json").read_text())
    return answer


def lineside(*words: object) -> str:
    command = [sys.executable, "-m", "lineside.cli", *map(str, words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def infer(bundle: Path, backend: str, pictures: list[str]) -> dict[str, Json]:
    """What `lineside infer` prints, by picture."""
    lines = lineside("infer", "--bundle", bundle, "--backend", backend, "--jsonl", *pictures).splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def same_findings(wanted: list[Json], found: list[Json]) -> None:
    """The same boxes within a pixel, of the same classes, with the same scores."""
    assert len(found) == len(wanted)
    left = list(found)
    for want in wanted:
        box = np.array(want["box"])
        near = [
            each for each in left if each["class_id"] == want["class_id"] and abs(each["score"] - want["score"]) < 1e-3
        ]
        off = [float(np.abs(box - each["box"]).max()) for each in near]
        assert off, f"nothing of this class and score: {want}"
        assert min(off) < 1.0, f"not at this place, nearest is {min(off):.2f} pixels off: {want}"
        best = left.index(near[int(np.argmin(off))])
        assert left[best]["label"] == want["label"]
        del left[best]


# --- Ultralytics: YOLO11 and YOLO26 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ultralytics(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    out = tmp_path_factory.mktemp("ultralytics")
    pictures = [data / "samples" / name for name in PICTURES]
    return out, export("ultralytics", "ultralytics_yolo.py", out, *pictures)


@pytest.mark.parametrize(
    ("variant", "decode"),
    [("yolo11-onnx", "yolov8"), ("yolo26-onnx", "yolo_e2e"), ("yolo26-raw-onnx", "yolov8")],
)
def test_a_yolo_export_gives_what_ultralytics_predicts(
    ultralytics: tuple[Path, Json], tmp_path: Path, variant: str, decode: str
) -> None:
    out, expected = ultralytics
    told = expected[variant]
    settings = told["settings"]
    options = ["--max-findings", settings["max_det"]]
    if "iou" in settings:
        options += ["--nms-iou", settings["iou"]]
    printed = lineside("bundle", "new", out / told["model"], "-o", tmp_path / "bundle", *options)
    assert f"guessed decode = {decode} " in printed
    assert "guessed 80 labels, 'thing 0' first (the model's metadata)" in printed
    assert "input      320 x 320, rgb, nchw, letterbox" in lineside("bundle", "show", tmp_path / "bundle")
    answers = infer(tmp_path / "bundle", "onnxruntime", list(told["pictures"]))
    assert sum(len(wanted) for wanted in told["pictures"].values()) > 50
    for picture, wanted in told["pictures"].items():
        same_findings(wanted, answers[picture]["findings"])


def test_an_openvino_folder_of_ultralytics_says_what_a_bundle_needs(
    ultralytics: tuple[Path, Json], tmp_path: Path
) -> None:
    out, expected = ultralytics
    told = expected["yolo11-openvino"]
    printed = lineside("bundle", "new", out / told["model"], "-o", tmp_path / "bundle")
    assert "guessed decode = yolov8 " in printed
    assert "guessed 80 labels, 'thing_0' first (the model's metadata)" in printed
    assert "guessed boxes = pixels " in printed
    # bf16 on some CPUs on both sides, and random weights blow its steps up: only the sure boxes stay where they are
    answers = infer(tmp_path / "bundle", "openvino", list(told["pictures"]))
    for picture, wanted in told["pictures"].items():
        found = answers[picture]["findings"]
        assert abs(len(found) - len(wanted)) <= 0.2 * len(wanted)
        assert found[0]["score"] == pytest.approx(wanted[0]["score"], abs=0.05)


# --- TensorFlow Model Garden: TFLite_Detection_PostProcess --------------------------------------------------------


@pytest.fixture(scope="module")
def tensorflow(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    """Pictures twice as wide and three times as high as the input, in equal blocks: every bilinear resize shrinks
    them to the same pixels, where TensorFlow and OpenCV would round others differently."""
    out = tmp_path_factory.mktemp("tensorflow")
    pictures = []
    for name in PICTURES:
        small = cv2.resize(cv2.imread(str(data / "samples" / name)), (256, 256), interpolation=cv2.INTER_AREA)
        pictures.append(out / f"{Path(name).stem}.png")
        cv2.imwrite(str(pictures[-1]), small.repeat(3, axis=0).repeat(2, axis=1))
    return out, export("tensorflow", "tf_ssd.py", out, *pictures)


@pytest.mark.parametrize("variant", ["ssd-unit", "ssd-pixels"])
def test_an_ssd_export_gives_what_model_garden_detects(
    tensorflow: tuple[Path, Json], tmp_path: Path, variant: str
) -> None:
    out, expected = tensorflow
    told = expected[variant]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(told["labels"]))
    mean, std = (",".join(map(str, told[key])) for key in ("mean", "std"))
    words = ["--labels", labels, "--mean", mean, "--std", std, "--min-score", told["settings"]["conf"]]
    printed = lineside("bundle", "new", out / told["model"], "-o", tmp_path / "bundle", *words)
    assert "guessed decode = ssd " in printed
    answers = infer(tmp_path / "bundle", "litert", list(told["pictures"]))
    for picture, wanted in told["pictures"].items():
        # Model Garden cuts boxes at the edge before suppression, TFLite's operator never does: their overlaps differ
        inside = _inside(wanted)
        assert len(inside) > 10
        assert len({each["class_id"] for each in inside}) > 2
        same_findings(inside, _inside(answers[picture]["findings"]))


def _inside(findings: list[Json]) -> list[Json]:
    """Those that touch no edge of a picture of 512 x 768."""
    return [each for each in findings if min(each["box"]) > 1 and each["box"][2] < 511 and each["box"][3] < 767]


# --- Anomalib -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anomalib(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Json]:
    out = tmp_path_factory.mktemp("anomalib")
    photos = data / "aws_cookies" / "images"
    for name in ("normal", "anomaly"):
        (out / name).mkdir()
        for number in range(1, 7):
            (out / name / f"{number}.jpg").symlink_to(photos / f"{name}-{number}.jpg")
    pictures = [photos / "normal-8.jpg", photos / "normal-10.jpg", photos / "anomaly-7.jpg", photos / "anomaly-8.jpg"]
    return out, export("anomalib", "anomalib_models.py", out, out / "normal", out / "anomaly", *pictures)


@pytest.mark.parametrize(("variant", "backend"), [("padim-onnx", "onnxruntime"), ("padim-openvino", "openvino")])
def test_an_anomalib_export_gives_the_scores_of_its_inferencer(
    anomalib: tuple[Path, Json], tmp_path: Path, variant: str, backend: str
) -> None:
    out, expected = anomalib
    told = expected[variant]
    printed = lineside("bundle", "new", out / told["model"], "-o", tmp_path / "bundle")
    assert "guessed decode = anomaly " in printed
    answers = infer(tmp_path / "bundle", backend, list(told["pictures"]))
    assert {wanted["anomalous"] for wanted in told["pictures"].values()} == {True, False}
    within = 1e-3 if backend == "onnxruntime" else 2e-2  # OpenVINO calculates in bf16 where the CPU can
    for picture, wanted in told["pictures"].items():
        assert answers[picture]["score"] == pytest.approx(wanted["score"], abs=within)
        assert answers[picture]["anomalous"] == wanted["anomalous"]


def test_the_map_of_an_anomalib_export_is_its_inferencers_map(anomalib: tuple[Path, Json], tmp_path: Path) -> None:
    from lineside.commands.infer import Eye
    from lineside.images import read_image
    from lineside.records import AnomalyMap
    from lineside.store.bundle import open_bundle

    out, expected = anomalib
    told = expected["padim-onnx"]
    lineside("bundle", "new", out / told["model"], "-o", tmp_path / "bundle")
    eye = Eye(open_bundle(str(tmp_path / "bundle")), "onnxruntime", None)
    for picture, wanted in told["pictures"].items():
        seen, _ = eye.see(read_image(picture))
        assert isinstance(seen, AnomalyMap)
        assert seen.heat is not None
        heat = np.load(out / wanted["map"])
        assert heat.std() > 0.01
        np.testing.assert_allclose(seen.heat, heat, atol=1e-3)
