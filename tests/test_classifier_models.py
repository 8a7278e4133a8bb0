"""The classifiers in models/: small, whole on every runtime, and as good on their test lists as their cards say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lineside.cli import main
from lineside.store import passport
from lineside.store.bundle import open_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))
import score_models

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "models").is_dir(), reason="the wheel holds the model of the demo only")
NAMES = ("tile-mobilenet", "ballscrew-mobilenet", "ballscrew-mobilevit")
LEAST_AUROC = {"tile-mobilenet": 0.97, "ballscrew-mobilenet": 0.98, "ballscrew-mobilevit": 0.98}
BACKENDS = ("onnxruntime", "openvino", "litert")
MOST_BYTES = 8 << 20


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_small_and_tells_its_licence_and_its_scores(name: str) -> None:
    bundle = open_bundle(ROOT / "models" / name)
    assert {artefact.format for artefact in bundle.artefacts} >= {"onnx", "tflite"}
    assert all(file.stat().st_size < MOST_BYTES for file in bundle.folder.rglob("*"))
    assert bundle.licence not in ("", "not stated")
    assert bundle.parity_sha256 is not None
    measured = passport.read(bundle.folder, bundle.parity_sha256)
    assert measured.reference.is_fp32
    assert not any("/" in one.why for one in measured.not_run)  # no path of the machine that measured
    card = (bundle.folder / "card.md").read_text()
    assert card.startswith(f"# {name}\n")
    for artefact in bundle.artefacts:
        assert f"| {Path(artefact.path).name} |" in card
    assert "## Limits" in card


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_classifier_gives_its_golden_answers(name: str, backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "verify", str(ROOT / "models" / name), "--backend", backend]) == 0
    assert "passed" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_golden_answers_tell_a_drawn_defect_from_a_drawn_surface(name: str) -> None:
    bundle = open_bundle(ROOT / "models" / name)
    assert bundle.golden is not None
    for artefact in bundle.artefacts:
        clean, damaged, *_ = (case.answers[Path(artefact.path).name] for case in bundle.golden.cases)
        assert clean[0].label == bundle.labels[0]
        assert damaged[0].label != bundle.labels[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["onnxruntime", "litert"])
def test_a_classifier_tells_defect_from_none_on_its_test_list(name: str, backend: str, data: Path) -> None:
    bundle = open_bundle(ROOT / "models" / name)
    rows = list(score_models.rows(bundle, score_models.SCORED_ON[name], data, [backend], []))
    assert rows
    for row in rows:
        assert row.fault == ""
        assert row.metrics["AUROC"].value >= LEAST_AUROC[name]
