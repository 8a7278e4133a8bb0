"""The bundle models/tile-anomaly: as good as its card says, and it points at what is unusual."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lineside.commands.infer import Eye
from lineside.images import read_image
from lineside.records import AnomalyMap
from lineside.store.bundle import open_bundle
from lineside.vision.heat import to_frame

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
import lists
from score import auroc

FOLDER = Path(__file__).resolve().parents[1] / "models" / "tile-anomaly"
LEAST_AUROC = 0.87  # the card: 0.889 and 0.899
HOLE = (170.0, 190.0)  # x, y in golden/1.png
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the wheel does not ship it")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "litert"])
def test_the_hottest_spot_is_where_the_hole_is(backend: str) -> None:
    eye = Eye(open_bundle(FOLDER), backend, None, threads=1)
    seen = []
    for name in ("0.png", "1.png"):
        anomaly, placement = eye.see(read_image(FOLDER / "golden" / name))
        assert isinstance(anomaly, AnomalyMap)
        assert anomaly.heat is not None
        seen.append((anomaly, to_frame(anomaly.heat, placement)))
    (plain, plain_heat), (holed, heat) = seen
    assert holed.score > plain.score
    assert plain_heat.max() < 0.5 < 0.9 < heat.max()
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert np.hypot(x - HOLE[0], y - HOLE[1]) < 25


@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_it_tells_defective_tiles_as_well_as_its_card_says(data: Path, backend: str) -> None:
    eye = Eye(open_bundle(FOLDER), backend, None, threads=1)
    scores, defective = [], []
    for shown in lists.tiles(data):
        anomaly = eye.look(shown.image)
        assert isinstance(anomaly, AnomalyMap)
        scores.append(anomaly.score)
        defective.append(shown.label != lists.OK)
    assert auroc(np.array(scores), np.array(defective)) >= LEAST_AUROC
