"""The shipped bundle conveyor-parts: as good as its card says, on every runtime, through lineside's own path.

Scenes here are of the demo's seeds, which training, choosing and the card's scores never saw.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lineside.cameras.render import DEFECTS, Scene
from lineside.records import Detections
from lineside.store.bundle import open_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
import parts
from score import average_precision

BACKENDS = ("onnxruntime", "litert", "openvino")
CLIP_SEED, FRAME_SEED = 910_000, 900_000
MIN_SCORE, MIN_FRAMES = 0.5, 2  # of the card
LEAST_AP50 = {"part": 0.98, "scratch": 0.7, "stain": 0.85, "chip": 0.85, "missing_hole": 0.8}


def test_the_bundle_is_small_and_names_its_licence_and_card() -> None:
    bundle = open_bundle("conveyor-parts")
    assert bundle.labels == ("part", *DEFECTS)
    assert bundle.licence == "Apache-2.0"
    assert {(a.format, a.precision) for a in bundle.artefacts} == {("onnx", "int8"), ("tflite", "int8")}
    assert sum(file.stat().st_size for file in bundle.folder.iterdir()) < 2 << 20
    assert "# conveyor-parts" in (bundle.folder / "card.md").read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_finds_parts_and_defects_as_well_as_its_card_says(backend: str) -> None:
    model = parts.open_for("conveyor-parts", backend, min_score=0.05)
    found, truths = [], []
    for seed in range(FRAME_SEED, FRAME_SEED + 10):
        scene = Scene(seed, defective_share=0.8)
        for number in (0, 40, 80):
            frame = scene.frame(number)
            seen = model.see(frame.image)
            assert isinstance(seen, Detections)
            columns = (seen.class_ids[:, None], seen.scores[:, None], seen.boxes)
            found.append(np.concatenate(columns, 1).astype(np.float32))
            rows = [(0.0, *part.box) for part in frame.parts if part.visible >= 0.2]
            rows += [
                (float(model.labels.index(defect.kind)), *defect.box)
                for part in frame.parts
                for defect in part.defects
                if defect.visible >= 0.4
            ]
            truths.append(np.array(rows, np.float32))
    points = dict(zip(model.labels, average_precision(found, truths, len(model.labels)), strict=True))
    assert all(points[label] >= least for label, least in LEAST_AP50.items()), points


def test_parts_are_judged_as_the_card_says() -> None:
    models = {backend: parts.open_for("conveyor-parts", backend) for backend in ("onnxruntime", "litert")}
    for backend, judged in parts.watch(models, CLIP_SEED, 25.0).items():
        tally = parts.tally(judged, DEFECTS, MIN_SCORE, MIN_FRAMES)
        assert tally.parts >= 25
        assert tally.missed == 0
        assert tally.right / tally.parts >= 0.93, (backend, tally)
