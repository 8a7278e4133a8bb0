"""`lineside bundle compare`: a bundle beside the exporter's own answers, and the options that make them agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside.commands.answers import Answer, Said, gap, read_answers
from lineside.errors import ConfigError
from lineside.records import AnomalyMap, Classification, Detections

CASES = Path(__file__).parent / "cases" / "models"
MODEL = CASES / "y8_cjk.onnx"  # class 0 is white, class 1 red, of 32 px cells


def bundle(folder: Path, *words: str) -> Path:
    assert main(["bundle", "new", str(MODEL), *words, "-o", str(folder)]) == 0
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (width, height) in enumerate([(320, 320), (640, 480), (480, 640), (320, 160)]):
        image = np.full((height, width, 3), 60, np.uint8)
        image[height // 5 : height // 2, width // 5 : width // 2] = 255
        image[height // 2 : height * 3 // 4, width * 3 // 5 : width * 4 // 5] = (0, 0, 255)
        paths.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(paths[-1]), image)
    return paths


def answers_of(folder: Path, pictures: list[Path], out: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """What a bundle says, as the exporter's file would say it: a JSON list, with names beside the file."""
    capsys.readouterr()
    assert main(["infer", "--bundle", str(folder), "--jsonl", *map(str, pictures)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(row["findings"] for row in rows)
    out.write_text(json.dumps([{**row, "file": Path(row["file"]).name} for row in rows]))
    return out


def misread(tmp_path: Path, *wrong: str) -> Path:
    """`bundle new` refuses some misreadings by itself: such a bundle is one whose model.toml somebody wrote."""
    if wrong[0] not in ("--std", "--boxes"):
        return bundle(tmp_path / "wrong", *wrong)
    folder = bundle(tmp_path / "wrong")
    text = (folder / "model.toml").read_text()
    old, new = {"--std": ("std = [255.0, 255.0, 255.0]", "std = [1.0, 1.0, 1.0]"), "--boxes": ('"pixels"', '"unit"')}[
        wrong[0]
    ]
    assert old in text
    (folder / "model.toml").write_text(text.replace(old, new))
    return folder


def compare(folder: Path, against: Path, *words: str) -> int:
    return main(["bundle", "compare", str(folder), "--against", str(against), *words])


def test_equal_answers_agree_on_every_runtime(
    tmp_path: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    right = bundle(tmp_path / "right")
    against = answers_of(right, pictures, tmp_path / "own.json", capsys)
    for backend in ("onnxruntime", "openvino"):
        assert compare(right, against, "--backend", backend) == 0
        said = capsys.readouterr().out
        assert "4 pictures: scores differ by 0.0" in said
        assert "agrees: scores within 0.01, boxes overlap by 0.98 or more" in said


@pytest.mark.parametrize(
    ("wrong", "option", "what"),
    [
        (("--color", "bgr"), "--color rgb", "the colour order is the difference"),
        (("--resize", "stretch"), "--resize letterbox", "the resize is the difference"),
        (("--resize", "letterbox_top_left"), "--resize letterbox", "the resize is the difference"),
        (("--std", "1"), "--mean 0 --std 255", "the normalisation is the difference"),
        (("--boxes", "unit"), "--boxes pixels", "the unit of the boxes is the difference"),
        (
            ("--color", "bgr", "--resize", "stretch"),
            "",  # in either order
            "are the difference",
        ),
    ],
)
def test_what_is_different_is_named_with_the_option_that_makes_it_agree(
    tmp_path: Path,
    pictures: list[Path],
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, ...],
    option: str,
    what: str,
) -> None:
    against = answers_of(bundle(tmp_path / "right"), pictures, tmp_path / "own.json", capsys)
    assert compare(misread(tmp_path, *wrong), against) == 1
    said = capsys.readouterr().out
    assert f"agrees with {option}" in said
    assert what in said
    assert "make the bundle again with these options" in said


def test_answers_that_no_reading_gives_differ_and_the_nearest_is_told(
    tmp_path: Path, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    right = bundle(tmp_path / "right")
    against = answers_of(right, pictures, tmp_path / "own.json", capsys)
    rows = json.loads(against.read_text())
    for row in rows:
        for each in row["findings"]:
            each["score"] = 0.77
    against.write_text(json.dumps(rows))
    assert compare(right, against) == 1
    said = capsys.readouterr().out
    assert "differs: none of " in said
    assert "agrees with" not in said


def test_a_classifiers_and_an_anomaly_models_answers_are_compared() -> None:
    seen = Classification(np.float32([0.2, 0.8]))
    found = gap(Answer(Path("a"), (Said(1, 0.75), Said(0, 0.25))), seen, 0.0)
    assert found.score == pytest.approx(0.05)
    assert not found.within(0.01, 0.98)
    assert gap(Answer(Path("a"), score=40.2), AnomalyMap(40.0), 0.0).within(0.01, 0.98)
    assert not gap(Answer(Path("a"), score=44.0), AnomalyMap(40.0), 0.0).within(0.01, 0.98)
    with pytest.raises(ConfigError, match="class 7: the model has 2 classes"):
        gap(Answer(Path("a"), (Said(7, 0.5),)), seen, 0.0)
    with pytest.raises(ConfigError, match='the bundle\'s answer is "top"'):
        gap(Answer(Path("a"), score=0.5), seen, 0.0)


def test_boxes_are_missing_or_extra_above_the_least_score_that_was_listed() -> None:
    seen = Detections(np.float32([[0, 0, 10, 10], [50, 50, 60, 60]]), np.float32([0.9, 0.3]), np.int32([0, 1]))
    near = Answer(Path("a"), (Said(0, 0.9, (0, 0, 10, 10.1)),))
    assert (gap(near, seen, 0.25).missing, gap(near, seen, 0.25).extra) == (0, 1)
    assert gap(near, seen, 0.3).within(0.01, 0.98)  # one that is not a hundredth above may be missing
    other_class = Answer(Path("a"), (Said(1, 0.9, (0, 0, 10, 10)), Said(1, 0.3, (50, 50, 60, 60))))
    found = gap(other_class, seen, 0.25)
    assert (found.missing, found.extra, found.least_iou) == (1, 1, 1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no answers"),
        ("[]", "holds no answers"),
        ("{", "is no JSON"),
        ('[{"findings": []}]', "answer 1: file is missing"),
        ('[{"file": "a.png"}]', "answer 1: score is missing"),
        ('[{"file": "a.png", "findings": [{"label": "x", "score": 1, "box": [1, 2, 3, 4]}]}]', "'x' is none of the"),
        ('[{"file": "a.png", "findings": [{"class_id": 0, "score": 1}]}]', "box is missing"),
        (
            '[{"file": "a.png", "findings": [{"class_id": 0, "score": 1, "box": [9, 9, 3, 4]}]}]',
            "ends before it begins",
        ),
        ('[{"file": "a.png", "top": [{"class_id": "b", "score": 1}]}]', "answer 1"),
    ],
)
def test_a_file_of_answers_that_cannot_be_read_is_refused_with_the_form_it_should_have(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "own.json").write_text(content)
    with pytest.raises(ConfigError, match="give a list of") as refused:
        read_answers(tmp_path / "own.json", ("bright", "red"))
    assert said in str(refused.value)


def test_lines_of_json_and_a_picture_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"file": "gone.png", "findings": []}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    assert len(read_answers(tmp_path / "own.jsonl", ("a",))) == 2
    assert compare(bundle(tmp_path / "right"), tmp_path / "own.jsonl") == 78
    assert "gone.png" in capsys.readouterr().err
