"""`lineside tune`: real models on real runtimes, and backends swapped in that are fast and wrong, or late at p99."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside.hal.choose import installed
from lineside.store.bundle import open_bundle
from rig import fake_bundle, pictures

SWAPPED = Path(__file__).parent / "swapped"

Tune = Callable[..., dict[str, Any]]


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of another package, as `pip install` would bring them: to the trials' processes, too."""
    monkeypatch.syspath_prepend(SWAPPED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SWAPPED), *filter(None, [os.environ.get("PYTHONPATH")])]))


def plan_file(state: Path) -> Path:
    """Where the plan is kept; what trials found is in another file, since fewer things decide about it."""
    (kept,) = (path for path in state.glob("models/*/*.json") if "plan" in json.loads(path.read_text()))
    return kept


@pytest.fixture
def tune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tune:
    """Runs it for a few seconds and gives the plan."""

    def run(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        more = ("--state-dir", tmp_path / "state", "--seconds", 3, "--json")
        assert main(["tune", *map(str, (*words, *more))]) == 0
        out = capsys.readouterr().out
        assert out.count("\n") == 1, "one JSON object, and nothing else on standard output"
        plan: dict[str, Any] = json.loads(out)
        return plan

    return run


def of(plan: dict[str, Any], backend: str) -> list[dict[str, Any]]:
    return [one for one in plan["tried"] if one["backend"] == backend]


def copy_without_golden(folder: Path, *, fp32: str = "") -> Path:
    """The shipped bundle with no answers of its own, and with one of its files called FP32: whose word counts then."""
    source = open_bundle("conveyor-parts").folder
    made = Path(shutil.copytree(source, folder))
    lines = (made / "model.toml").read_text().partition("\n[golden]")[0]
    if fp32:
        head, _, tail = lines.partition(f'file = "{fp32}"')
        lines = head + f'file = "{fp32}"' + tail.replace('precision = "int8"', 'precision = "fp32"', 1)
    (made / "model.toml").write_text(lines)
    return made


def test_the_shipped_model_is_tuned_over_every_runtime(tune: Tune, tmp_path: Path) -> None:
    plan = tune("--bundle", "conveyor-parts")
    assert {one["backend"] for one in plan["tried"]} >= set(installed()) & {"onnxruntime", "openvino", "litert"}
    assert {one["threads"] for one in plan["tried"] if one["state"] != "refused"} >= {1}
    pick = plan["tried"][0]
    assert (pick["state"], pick["flips"], pick["pictures"]) == ("picked", 0, 3)
    assert pick["p99_ms"] >= pick["p50_ms"] > 0
    assert any("no fp32 reference" in note for note in plan["notes"])
    assert any("3 pictures are few" in note for note in plan["notes"])
    assert (pick["frames"] < 300) == any("frames are few for a p99" in note for note in plan["notes"])
    kept = plan_file(tmp_path / "state")
    assert json.loads(kept.read_text())["plan"] == plan
    assert json.loads(kept.read_text())["facts"]["onnxruntime"]


@pytest.mark.usefixtures("swapped")
def test_fast_and_wrong_is_refused_by_the_golden_pictures(tune: Tune) -> None:
    plan = tune("--bundle", "conveyor-parts", "--backend", "onnxruntime", "--backend", "hasty")
    assert plan["tried"][0]["backend"] == "onnxruntime"
    (hasty,) = of(plan, "hasty")
    assert hasty["state"] == "refused"
    assert "golden pictures" in hasty["why"]


@pytest.mark.usefixtures("swapped")
def test_fast_and_wrong_named_first_does_not_become_the_reference(tune: Tune) -> None:
    plan = tune("--bundle", "conveyor-parts", "--backend", "hasty", "--backend", "onnxruntime")
    assert plan["reference"].startswith("conveyor-parts_int8.onnx on onnxruntime")
    assert plan["tried"][0]["backend"] == "onnxruntime"


@pytest.mark.usefixtures("swapped")
def test_fast_and_wrong_is_refused_by_flips_where_there_are_no_golden_pictures(tune: Tune, tmp_path: Path) -> None:
    bundle = copy_without_golden(tmp_path / "bundle", fp32="conveyor-parts_int8.onnx")
    data = open_bundle("conveyor-parts").folder / "golden"
    shown = Path(shutil.copytree(data, tmp_path / "data"))
    cv2.imwrite(str(shown / "empty.png"), np.zeros((288, 512, 3), np.uint8))
    plan = tune("--bundle", bundle, "--data", shown, "--backend", "hasty", "--backend", "onnxruntime")
    assert "FP32" in plan["reference"]
    (hasty,) = of(plan, "hasty")
    assert hasty["state"] == "refused"
    assert hasty["flips"] >= 1
    assert "decides otherwise than the reference" in hasty["why"]
    assert plan["tried"][0]["backend"] == "onnxruntime"
    tolerant = tune(
        "--bundle", bundle, "--data", shown, "--backend", "hasty", "--backend", "onnxruntime", "--max-flips", 0.99
    )
    assert tolerant["tried"][0]["backend"] == "hasty", "it is the soonest, so only its answers stood against it"


@pytest.mark.usefixtures("swapped")
@pytest.mark.parametrize("limit", [(), ("--p99-ms", 200)])
def test_soon_at_the_median_and_late_at_p99_is_not_picked(tune: Tune, limit: tuple[object, ...]) -> None:
    plan = tune("--bundle", "conveyor-parts", "--backend", "spiky", "--backend", "onnxruntime", *limit)
    pick, spiky = plan["tried"][0], of(plan, "spiky")
    assert pick["backend"] == "onnxruntime"
    assert min(one["p50_ms"] for one in spiky) < pick["p50_ms"], "else it was refused for the wrong reason"
    assert {one["state"] for one in spiky} <= {"refused", "slower"}
    assert bool(limit) == any("--p99-ms 200" in one["why"] for one in spiky if one["state"] == "refused")


def test_int8_that_decides_otherwise_than_fp32_is_refused(tune: Tune, tmp_path: Path, data: Path) -> None:
    """MobileNetV2's INT8 file says something else of 3 of 11 photos."""
    models = data / "models"
    words = [models / "classify/mobilenet_v2_224_fp32.onnx", "-o", tmp_path / "mobilenet"]
    words += ["--artefact", models / "classify/mobilenet_v2_224_int8_qdq.onnx"]
    words += ["--labels", models / "labels/imagenet_labels_1001.txt", "--filter", "linear"]
    assert main(["bundle", "new", *map(str, words)]) == 0
    plan = tune("--bundle", tmp_path / "mobilenet", "--data", data / "samples")
    assert plan["reference"] == "mobilenet_v2_224_fp32.onnx on onnxruntime:cpu, FP32"
    assert plan["tried"][0]["file"] == "mobilenet_v2_224_fp32.onnx"
    refused = [one for one in of(plan, "onnxruntime") if one["state"] == "refused"]
    assert [(one["file"], one["flips"]) for one in refused] == [("mobilenet_v2_224_int8_qdq.onnx", 3)]


def test_a_detector_is_tuned_against_its_fp32_file(tune: Tune, tmp_path: Path, data: Path) -> None:
    models = data / "models"
    words = [models / "detect/yolox_nano_416.onnx", "-o", tmp_path / "yolox"]
    words += ["--artefact", models / "detect/yolox_nano_416_dynamic_range.tflite"]
    words += ["--labels", models / "labels/coco_labels_80.txt"]
    assert main(["bundle", "new", *map(str, words)]) == 0
    plan = tune("--bundle", tmp_path / "yolox", "--data", data / "samples", "--max-flips", 0.5)
    assert {(one["backend"], one["file"].partition(".")[2]) for one in plan["tried"]} == {
        *(("onnxruntime", "onnx"), ("openvino", "onnx"), ("openvino", "tflite"), ("litert", "tflite"))
    }
    alone = tune("--bundle", tmp_path / "yolox", "--data", data / "samples", "--backend", "onnxruntime")
    assert [one["flips"] for one in alone["tried"]] == [0] * len(alone["tried"]), "FP32 on FP32"


def test_a_person_reads_what_was_picked_and_refused_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--bundle", "conveyor-parts", "--state-dir", str(tmp_path), "--seconds", "1"]
    assert main([*words, "--backend", "onnxruntime", "--backend", "openvino"]) == 0
    shown = capsys.readouterr().out
    for word in ("p99 ms", "picked: ", "the soonest that answers right", "note: no fp32 reference", "kept in"):
        assert word in shown


# --- what a person can do wrong


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def damaged(folder: Path, *, also: bool) -> Path:
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    (folder / "b.jpg").write_bytes(b"")
    if also:
        cv2.imwrite(str(folder / "c.png"), np.zeros((20, 20, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-flips", "1"], "--max-flips 1: a share"),
        (["--max-flips", "-0.1"], "--max-flips -0.1: a share"),
        (["--max-flips", "nan"], "--max-flips nan: a share"),
        (["--p99-ms", "0"], "--p99-ms 0: milliseconds"),
        (["--seconds", "0"], "--seconds 0: 1 to"),
        (["--backend", "onnxruntim"], "--backend onnxruntim: unknown; known are onnxruntime"),
        (["--backend", "onnxruntime:"], "write NAME or NAME:DEVICE"),
        (["--backend", "onnxruntime:cuda"], "nothing runs that could be the reference"),
        (["--data", "absent"], "absent: cannot be read"),
        (["--reference", "absent.onnx"], "absent.onnx: model file does not exist"),
        (["--profile", "no-such-board"], "no-such-board"),
        (["--p99-ms", "0.000001"], "--p99-ms 1e-06"),
    ],
)
def test_a_wrong_word_is_a_clear_error(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--state-dir", str(tmp_path), "--seconds", "1"]
    backend = [] if "--backend" in words else ["--backend", "onnxruntime"]
    assert main(["tune", "--bundle", "conveyor-parts", *more, *backend, *words]) == 78
    error = capsys.readouterr().err
    assert says in error
    assert not [path for path in tmp_path.glob("models/*/*") if "plan" in json.loads(path.read_text())]


def test_no_pictures_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", "--state-dir", str(tmp_path / "state"), "--backend", "onnxruntime", "--bundle"]
    assert main([*words, str(fake_bundle())]) == 78
    assert "name a folder of pictures with --data DIR" in capsys.readouterr().err
    assert main([*words, "conveyor-parts", "--data", str(empty(tmp_path / "empty"))]) == 78
    assert "no picture in this folder" in capsys.readouterr().err


def test_pictures_that_cannot_be_read_are_named_and_counted(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = damaged(tmp_path / "some", also=True)
    plan = tune("--bundle", "conveyor-parts", "--backend", "onnxruntime", "--data", some)
    assert plan["pictures"] == 1
    (note,) = (note for note in plan["notes"] if "cannot be read" in note)
    assert note.startswith("2 pictures cannot be read: ")
    assert "a.png: not a picture" in note
    none = damaged(tmp_path / "none", also=False)
    assert main(["tune", "--bundle", "conveyor-parts", "--state-dir", str(tmp_path), "--data", str(none)]) == 78
    error = capsys.readouterr().err
    assert "not one of 2 pictures can be read" in error
    assert "b.jpg: the file is empty" in error


def test_a_bundle_edited_by_hand_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = copy_without_golden(tmp_path / "bundle")
    with (bundle / "conveyor-parts_int8.onnx").open("ab") as file:
        file.write(b"x")
    for command in ("tune", "parity"):
        assert main([command, "--bundle", str(bundle), "--state-dir", str(tmp_path)]) == 78
        assert "changed after packing" in capsys.readouterr().err


def test_a_state_folder_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    for command in ("tune", "parity"):
        assert main([command, "--bundle", "conveyor-parts", "--state-dir", str(tmp_path / "state")]) == 78
        error = capsys.readouterr().err
        assert f"state folder {tmp_path}/state: cannot be written" in error
        assert "--state-dir" in error


@pytest.mark.parametrize("broken", ["{", "[]", '{"plan": []}', '{"plan": {"tried": [{}]}}', '{"plan": null}'])
def test_a_broken_state_file_costs_nothing_but_what_it_held(tune: Tune, tmp_path: Path, broken: str) -> None:
    clip = pictures(tmp_path / "pictures", 10)
    words = ("--bundle", fake_bundle(), "--backend", "fake", "--data", clip)
    tune(*words)
    kept = plan_file(tmp_path / "state")
    kept.write_text(broken)
    assert json.loads(json.dumps(tune(*words))) == json.loads(kept.read_text())["plan"]


def test_golden_parity_and_plan_share_a_file_and_keep_each_others_word(tune: Tune, tmp_path: Path) -> None:
    tune("--bundle", "conveyor-parts", "--backend", "onnxruntime")
    kept = plan_file(tmp_path / "state")
    told = json.loads(kept.read_text())
    kept.write_text(json.dumps({**told, "golden": ["a file on a backend"]}))
    words = ["parity", "--bundle", "conveyor-parts", "--backend", "onnxruntime", "--state-dir", str(tmp_path / "state")]
    assert main(words) == 0
    assert set(json.loads(kept.read_text())) == {"golden", "parity", "plan", "facts"}


def test_the_pick_before_stays_while_nothing_is_better_by_more_than_noise(tune: Tune, tmp_path: Path) -> None:
    clip = pictures(tmp_path / "pictures", 10)
    words = ("--bundle", fake_bundle(), "--backend", "fake", "--data", clip)
    first = tune(*words)
    if len(first["tried"]) < 2:
        pytest.skip("one core: there is one way to run it")
    kept = plan_file(tmp_path / "state")
    told = json.loads(kept.read_text())
    other = first["tried"][1]["threads"]  # the fake backend has no use for threads: noise decided
    told["plan"]["tried"][0]["threads"] = other
    kept.write_text(json.dumps(told))
    again = tune(*words)
    ties = [one["threads"] for one in again["tried"] if one["state"] in ("picked", "within noise")]
    if len(ties) > 1 and other in ties:
        assert ties[0] == other
        assert "it was the pick before" in again["tried"][0]["why"]
