"""Golden answers: packed from pictures, tried on a device; a station starts only on a device that gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from lineside.cli import main
from lineside.records import Finding
from lineside.store.bundle import open_bundle
from lineside.store.golden import Case, Golden, Said, Tolerance, differences
from quantizing import save
from rig import Daemon, fake_bundle, fake_profile, pictures

BOX = (10.0, 10.0, 50.0, 60.0)


def golden(*said: Said, score: float = 0.1, iou: float = 0.8) -> Golden:
    case = Case(image="golden/0.png", sha256="0" * 64, answers={"model.onnx": said})
    return Golden(min_score=0.25, tolerance=Tolerance(score=score, iou=iou), cases=(case,))


def compared(answers: Golden, *found: Finding, task: str = "detect", min_score: float = 0.25) -> list[str]:
    return differences(answers.cases[0], "model.onnx", found, task, answers, min_score)  # type: ignore[arg-type]


def test_a_box_that_is_near_enough_agrees_and_no_other() -> None:
    answers = golden(Said(label="chip", score=0.8, box=BOX))
    assert compared(answers, Finding("chip", 0, 0.75, (11.0, 10.0, 50.0, 60.0))) == []
    for wrong in (
        Finding("chip", 0, 0.75, (30.0, 10.0, 70.0, 60.0)),  # elsewhere
        Finding("scratch", 1, 0.8, BOX),
        Finding("chip", 0, 0.65, BOX),
        Finding("chip", 0, float("nan"), BOX),
    ):
        assert len(compared(answers, wrong)) >= 1, wrong
    assert len(compared(answers)) == 1
    assert len(compared(answers, *[Finding("chip", 0, 0.8, BOX)] * 2)) == 1, "one more than the golden answer has"


@given(st.floats(0.25, 0.35, exclude_max=True), st.booleans())
def test_a_finding_near_the_least_score_may_come_or_not(score: float, is_golden: bool) -> None:
    weak = Said(label="chip", score=score, box=BOX)
    assert (
        compared(golden(weak) if is_golden else golden(), *([] if is_golden else [Finding("chip", 0, score, BOX)]))
        == []
    )


def test_a_station_with_a_higher_least_score_is_not_asked_for_what_it_drops() -> None:
    answers = golden(Said(label="chip", score=0.5, box=BOX))
    assert len(compared(answers)) == 1
    assert compared(answers, min_score=0.6) == []


def test_a_classifier_must_give_every_score() -> None:
    answers = golden(Said(label="ok", score=0.9), Said(label="bad", score=0.1))
    assert compared(answers, Finding("bad", 1, 0.05), Finding("ok", 0, 0.95), task="classify") == []
    assert len(compared(answers, Finding("ok", 0, 0.95), task="classify")) == 1
    assert len(compared(answers, Finding("bad", 1, 0.9), Finding("ok", 0, 0.1), task="classify")) == 2


def test_of_a_thousand_classes_a_weak_one_need_not_be_among_the_best() -> None:
    answers = golden(Said(label="ok", score=0.9), Said(label="tenth", score=0.01), score=0.1)
    assert compared(answers, Finding("ok", 0, 0.9), Finding("other", 2, 0.02), task="classify") == []
    assert len(compared(answers, Finding("tenth", 1, 0.02), task="classify")) == 1


def test_of_another_file_nothing_is_known() -> None:
    answers = golden()
    assert "no golden answer" in differences(answers.cases[0], "other.tflite", (), "detect", answers, 0.25)[0]


# --- made and tried


@pytest.fixture
def bright(tmp_path: Path) -> list[str]:
    """A dark, a grey and a bright picture."""
    paths = [tmp_path / f"{level}.png" for level in (20, 128, 240)]
    for path, level in zip(paths, (20, 128, 240), strict=True):
        assert cv2.imwrite(str(path), np.full((32, 32, 3), level, np.uint8))
    return [str(path) for path in paths]


@pytest.fixture
def shipped_golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(open_bundle("conveyor-parts").folder, tmp_path / "parts"))


def test_the_shipped_model_gives_its_golden_answers_on_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", "conveyor-parts"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("passed") >= 1
    assert "FAILED" not in shown


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_golden_answers_are_what_the_model_said_when_they_were_made(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_bundle("conveyor-parts")
    picture = str(source.folder / source.golden.cases[0].image) if source.golden else ""
    assert main(["bundle", "golden", "conveyor-parts", picture, "-o", str(tmp_path / "new"), "--version", "9"]) == 0
    made = open_bundle(tmp_path / "new")
    assert made.version == "9"
    assert made.digest != source.digest
    assert made.golden is not None
    assert len(made.golden.cases) == 1
    assert main(["bundle", "verify", str(tmp_path / "new"), "--backend", backend]) == 0
    assert "1 pictures" in capsys.readouterr().out


def test_a_picture_whose_answer_hangs_on_a_grey_level_is_refused(
    tmp_path: Path, bright: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 128 on the average: a grey level more in one pixel is bright, one less is dark."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "middle"], ["above"]),
        helper.make_node("Mul", ["above", "gain"], ["steep"]),
        helper.make_node("Mul", ["steep", "signs"], ["logits"]),
    ]
    held = {"middle": np.float32([128]), "gain": np.float32([5000]), "signs": np.float32([[-1, 1]])}
    model = save(tmp_path / "model.onnx", nodes, held, [1, 3, 32, 32], {"logits": [1, 2]})
    (tmp_path / "labels.txt").write_text("dark\nbright\n")
    words = ["--labels", str(tmp_path / "labels.txt"), "--mean", "0", "--std", "1", "-o", str(tmp_path / "bundle")]
    assert main(["bundle", "new", str(model), *words]) == 0
    golden = ["bundle", "golden", str(tmp_path / "bundle")]
    assert main([*golden, *bright, "-o", str(tmp_path / "new")]) == 78
    error = capsys.readouterr().err
    assert f"{bright[1]}: model.onnx: " in error
    assert "once pixels change by one grey level" in error
    assert bright[0] not in error
    assert not (tmp_path / "new").exists()
    assert main([*golden, bright[0], bright[2], "-o", str(tmp_path / "new")]) == 0


def test_a_model_that_answers_otherwise_fails(shipped_golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(shipped_golden, lambda told: told["cases"][0]["answers"]["conveyor-parts_int8.onnx"].pop(0))
    assert main(["bundle", "verify", str(shipped_golden), "--backend", "onnxruntime"]) == 1
    assert "is not in the golden answer" in capsys.readouterr().out


def rewrite(bundle: Path, change: object) -> None:
    """Change golden.json, and model.toml so that it fits."""
    import hashlib

    path = bundle / "golden.json"
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    told = json.loads(path.read_text())
    change(told)  # type: ignore[operator]
    path.write_text(json.dumps(told))
    manifest = (bundle / "model.toml").read_text()
    assert old in manifest
    (bundle / "model.toml").write_text(manifest.replace(old, hashlib.sha256(path.read_bytes()).hexdigest()))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "golden.json").write_text("{}"), "is not the file that was packed"),
        (lambda folder: (folder / "golden.json").unlink(), "cannot be read"),
        (lambda folder: rewrite(folder, lambda told: told.pop("cases")), "pack it again"),
        (lambda folder: next((folder / "golden").iterdir()).write_bytes(b"x"), "is not the picture that was packed"),
        (lambda folder: shutil.rmtree(folder / "golden"), "cannot be read"),
    ],
    ids=["edited", "missing", "no cases", "another picture", "no pictures"],
)
def test_a_damaged_bundle_is_a_clear_error(
    harm: object, says: str, shipped_golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(shipped_golden)  # type: ignore[operator]
    assert main(["bundle", "verify", str(shipped_golden), "--backend", "onnxruntime"]) == 78
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error


def test_pictures_that_are_none_and_folders_that_exist_are_refused(
    tmp_path: Path, bright: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    (tmp_path / "there").mkdir()
    assert main(["bundle", "golden", "conveyor-parts", str(tmp_path / "no.png"), "-o", str(tmp_path / "new")]) == 78
    assert main(["bundle", "golden", "conveyor-parts", bright[0], "-o", str(tmp_path / "there")]) == 78
    assert not (tmp_path / "new").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_a_bundle_without_golden_answers_says_how_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(fake_bundle())]) == 78
    assert "lineside bundle golden" in capsys.readouterr().err


# --- before a station decides


def station(folder: Path, bundle: Path) -> str:
    clip = pictures(folder / "clip", 3)
    return f"""
[daemon]
state_dir = "{folder}/state"
control_socket = "{folder}/run/control.sock"
profile = "{fake_profile(folder / "fake.toml")}"
[cameras.cam]
driver = "clip"
path = "{clip}"
pace = "max_speed"
[stations.s1]
camera = "cam"
bundle = "{bundle}"
backend = "fake"
"""


def with_answers(folder: Path, score: float) -> Path:
    """The fake backend's bundle, with one golden picture that scores so for the darkest label."""
    from lineside.store.pack import pack_golden

    bundle = open_bundle(fake_bundle())
    picture = folder / "dark.png"
    assert cv2.imwrite(str(picture), np.zeros((32, 32, 3), np.uint8))
    import hashlib

    case = Case(
        image="golden/0.png",
        sha256=hashlib.sha256(picture.read_bytes()).hexdigest(),
        answers={Path(bundle.artefacts[0].path).name: (Said(label="band0", score=score),)},
    )
    return pack_golden(bundle, folder / "golden", Golden(min_score=0.25, cases=(case,)), [picture], "2").folder


def test_a_daemon_tries_a_model_once_and_not_again_until_something_changes(tmp_path: Path) -> None:
    config = station(tmp_path, with_answers(tmp_path, 0.9))
    said = "answers its 1 golden pictures"
    for start, tried in enumerate((1, 1, 2), 1):
        if start == 3:
            for kept in (tmp_path / "state" / "models").glob("*/*.json"):
                kept.write_text("damaged")
        with Daemon(tmp_path, config) as daemon:
            assert daemon.wait() == 0, daemon.log()
        assert daemon.log().count(said) == tried, f"start {start}"


def test_a_daemon_refuses_a_model_that_answers_wrong_on_this_box(tmp_path: Path) -> None:
    with Daemon(tmp_path, station(tmp_path, with_answers(tmp_path, 0.2))) as daemon:
        assert daemon.wait() == 78
    assert "gives wrong answers to its golden pictures" in daemon.log()
    assert "band0 0.900, golden 0.200" in daemon.log()
    assert "Traceback" not in daemon.log()
