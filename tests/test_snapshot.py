"""`lineside snapshot` as a person runs it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from lineside.cli import main
from lineside.commands.snapshot import LINE_COLOUR


@pytest.fixture
def config(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "still.png"), np.full((200, 400, 3), 90, np.uint8))
    path = tmp_path / "lineside.toml"
    path.write_text("""
        [cameras.gate]
        driver = "clip"
        path = "."
        roi = [0, 0, 400, 180]
        [cameras.hall]
        driver = "clip"
        path = "gone.mp4"
        [stations.count]
        camera = "gate"
        bundle = "any"
        trigger = { per = "object", line = [[0.5, 0.2], [0.5, 0.9]], direction = "right" }
        [stations.count.zones.belt]
        polygon_px = [[60, 40], [460, 40], [350, 150]]
    """)
    return path


def test_the_picture_shows_line_and_grid_and_warns_of_a_zone_outside(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "aim.png"
    assert main(["snapshot", str(config), "--camera", "gate", "-o", str(out)]) == 0
    picture = cv2.imread(str(out))
    assert picture.shape == (180, 400, 3)
    assert tuple(int(level) for level in picture[150, 200]) == LINE_COLOUR  # below the arrow, where nothing else is
    assert (picture[:6] == 255).all(axis=2).any()  # ticks
    said = capsys.readouterr().out
    assert "camera gate, 400 x 180 pixels" in said
    assert "stations.count.zones.belt.polygon_px: (460, 40) is outside" in said


def test_plain_is_the_picture_as_the_stations_see_it(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "aim.png"
    assert main(["snapshot", str(config), "--camera", "gate", "--plain", "-o", str(out)]) == 0
    assert (cv2.imread(str(out)) == 90).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--camera", "gat", "-o", "x.png"], "--camera gat: no such camera"),
        (["-o", "x.png"], "--camera: missing"),
        (["--camera", "hall", "-o", "x.png"], "cameras.hall.path = "),
        (["--camera", "gate", "-o", "/nowhere/x.png"], "-o /nowhere/x.png: cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    config: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["snapshot", str(config), *arguments]) == 78
    assert said in capsys.readouterr().err


def test_faces_are_blurred_unless_told_otherwise(data: Path, tmp_path: Path) -> None:
    words = ["--task", "detect", "--decode", "yunet", "--labels", str(tmp_path / "labels.txt")]
    (tmp_path / "labels.txt").write_text("face\n")
    model = data / "models/face/yunet_n_dynamic.onnx"
    assert main(["bundle", "new", str(model), *words, "-o", str(tmp_path / "yunet")]) == 0
    (tmp_path / "pictures").mkdir()
    photo = cv2.imread(str(data / "samples/face.jpg"))
    cv2.imwrite(str(tmp_path / "pictures/one.png"), photo)
    config = tmp_path / "door.toml"
    config.write_text("""
        [cameras.door]
        driver = "clip"
        path = "pictures"
        [stations.presence]
        camera = "door"
        bundle = "yunet"
    """)
    face, wall = np.s_[83:207, 132:222], np.s_[300:400, 0:100]
    blurred, kept = tmp_path / "blurred.png", tmp_path / "kept.png"
    assert main(["snapshot", str(config), "--plain", "-o", str(blurred)]) == 0
    assert main(["snapshot", str(config), "--plain", "--keep-faces", "-o", str(kept)]) == 0
    assert (cv2.imread(str(kept)) == photo).all()
    shown = cv2.imread(str(blurred))
    assert cv2.Laplacian(shown[face], cv2.CV_64F).std() < 0.2 * cv2.Laplacian(photo[face], cv2.CV_64F).std()
    assert (shown[wall] == photo[wall]).all()
