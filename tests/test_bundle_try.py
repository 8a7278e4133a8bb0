"""`lineside bundle new --try`: what is drawn and told of pictures, what refutes a reading, the measured filter."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lineside.cli import main
from lineside.images import read_image
from lineside.store.bundle import open_bundle

CASES = Path(__file__).parent / "cases" / "models"
PICTURES = [CASES / "sq.png", CASES / "nothing.png"]


def new(*words: object) -> int:
    return main(["bundle", "new", *map(str, words)])


def test_a_sound_model_is_packed_tried_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new(CASES / "y8_cjk.onnx", "--try", *PICTURES, "-o", tmp_path / "made") == 0
    said = capsys.readouterr().out
    assert "sq.png: it's 1.00 (224, 192, 256, 224), 划痕 1.00 (96, 64, 128, 96)" in said
    assert "nothing.png: nothing" in said
    assert f"drawn: 2 pictures in {tmp_path / 'made-tried'}" in said
    before, after = read_image(CASES / "sq.png"), read_image(tmp_path / "made-tried" / "sq.png")
    changed = (before != after).any(axis=2)
    assert changed[60:68, 94:130].any()  # the box of the white square
    assert np.array_equal(read_image(tmp_path / "made-tried" / "nothing.png"), read_image(CASES / "nothing.png"))
    open_bundle(tmp_path / "made")


def test_a_folder_is_tried_and_what_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(CASES / "sq.png", folder)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert new(CASES / "y8_cjk.onnx", "--try", folder, "--draw", tmp_path / "seen", "-o", tmp_path / "made") == 0
    told = capsys.readouterr()
    assert "broken.png" in told.err
    assert "drawn: 1 pictures" in told.out
    assert [path.name for path in (tmp_path / "seen").iterdir()] == ["sq.png"]


def test_what_only_real_pictures_refute_is_refused_and_nothing_is_kept_but_the_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the test pictures of `bundle new` it tells bright from dark; in these two it answers 0 and 1 both times."""
    (tmp_path / "two.txt").write_text("bright\nred\n")
    words = ("--labels", tmp_path / "two.txt", "--mean", "127", "--std", "0.001", "--try", *PICTURES)
    assert new(classifier(tmp_path / "means.onnx"), *words, "-o", tmp_path / "made") == 78
    told = capsys.readouterr().err
    assert "the bundle was not kept: its answers to 2 pictures cannot be right" in told
    assert "the answer is the same, to the last digit, for each of 2 pictures" in told
    assert not (tmp_path / "made").exists()
    assert len(list((tmp_path / "made-tried").iterdir())) == 2


@pytest.mark.parametrize("words", [("--boxes", "unit"), ("--scores", "logit", "--min-score", "0")])
def test_a_reading_that_no_picture_holds_up_is_refused_before_the_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert new(CASES / "y8_cjk.onnx", *words, "--try", *PICTURES, "-o", tmp_path / "made") == 78
    assert "y8_cjk.onnx" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_nothing_on_every_picture_is_told_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new(CASES / "y8_cjk.onnx", "--try", CASES / "nothing.png", "-o", tmp_path / "made") == 0
    assert "look: nothing was found on the picture: right only if nothing is there" in capsys.readouterr().out


def test_options_of_a_trial_without_one_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert new(CASES / "y8_cjk.onnx", "--draw", tmp_path / "d", "-o", tmp_path / "made") == 78
    assert "--draw: is for --try PICTURE" in capsys.readouterr().err


def test_a_packed_bundle_is_opened_before_it_is_called_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lineside.commands.looking import open_once

    (tmp_path / "two.txt").write_text("bright\nred\n")
    path = classifier(tmp_path / "model.onnx")
    assert new(path, "--labels", tmp_path / "two.txt", "-o", tmp_path / "made") == 0
    made = open_bundle(tmp_path / "made")
    assert open_once(made) == []
    (tmp_path / "made" / "model.onnx").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(Exception, match="cannot read this model"):
        open_once(made)


# --- the filter


def classifier(path: Path, *, side: int = 16) -> Path:
    """Two logits: how bright the picture is and how dark."""
    weights = np.float32([[1, -1]] * 3)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        ],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [
            onnx.numpy_helper.from_array(weights, "weights"),
            onnx.numpy_helper.from_array(np.float32([-0.4, 0.4]), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pytorch")
    onnx.save(model, str(path))
    return path


def test_the_exporters_habit_is_the_filter_where_nobody_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.txt").write_text("bright\nred\n")
    assert new(classifier(tmp_path / "m.onnx"), "--labels", tmp_path / "two.txt", "-o", tmp_path / "a") == 0
    assert "guessed filter = antialias (PyTorch classifiers" in capsys.readouterr().out
    assert open_bundle(tmp_path / "a").input.filter == "antialias"
    (tmp_path / "preprocessor_config.json").write_text('{"do_resize": true, "resample": 3}')
    assert new(tmp_path / "m.onnx", "--labels", tmp_path / "two.txt", "-o", tmp_path / "b") == 0
    assert open_bundle(tmp_path / "b").input.filter == "bicubic"
    assert new(tmp_path / "m.onnx", "--labels", tmp_path / "two.txt", "--filter", "area", "-o", tmp_path / "c") == 0
    assert open_bundle(tmp_path / "c").input.filter == "area"
    assert new(CASES / "y8_cjk.onnx", "-o", tmp_path / "d") == 0
    assert open_bundle(tmp_path / "d").input.filter == "linear"
    assert "filter" not in (tmp_path / "d" / "model.toml").read_text()


def test_labelled_folders_measure_the_filter_and_overrule_the_habit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model calls what has much white bright. Of one column in eight that is white, every second pixel that a
    linear resize looks at sees nothing: by such pictures the filters differ, and the labels say who is right."""
    (tmp_path / "two.txt").write_text("bright\nred\n")
    for number in range(6):
        for name, phase in (("bright", 4), ("red", 0)):
            image = np.zeros((128, 128, 3), np.uint8)
            for column in range(phase + number % 2 * 8, 128, 8):
                image[:, column - (phase == 4) : column + 1] = 255  # about the point that linear looks at, or between
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), image)
    words = ("--labels", tmp_path / "two.txt", "--mean", "0", "--std", "255", "--resize", "stretch")
    tried = ("--try", tmp_path / "bright", tmp_path / "red", "-o", tmp_path / "made")
    assert new(classifier(tmp_path / "m.onnx"), *words, *tried) == 0
    said = capsys.readouterr().out
    assert "guessed filter = linear (measured on 12 labelled pictures, accuracy / score: linear 1.000" in said
    assert open_bundle(tmp_path / "made").input.filter == "linear"
