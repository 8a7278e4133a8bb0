"""`lineside quantize` on PyTorch models: one bundle for ONNX Runtime and LiteRT out of one program."""

from __future__ import annotations

from pathlib import Path

import pytest

from lineside.cli import main
from lineside.errors import ConfigError
from lineside.quantize.pytorch import export, timm_options
from lineside.store.bundle import open_bundle
from quantizing import NATIVE, SIDE, colour_pictures, labels


def test_timms_way_to_prepare_pictures_is_told_in_pixels() -> None:
    cfg = {"mean": (0.5, 0.4, 0.0), "std": (1.0, 0.2, 0.5), "crop_pct": 0.9}
    assert timm_options(cfg) == {
        "color": "rgb",
        "mean": (127.5, 102.0, 0.0),
        "std": (255.0, 51.0, 127.5),
        "resize": "center_crop",
        "crop_fraction": 0.9,
    }


def test_a_program_becomes_a_bundle_for_two_runtimes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'lineside[quantize-torch]'")
    pytest.importorskip("litert_torch", reason="needs litert-torch: pip install 'lineside[quantize-torch]'")
    pytest.importorskip("ai_edge_quantizer", reason="needs ai-edge-quantizer: pip install 'lineside[quantize]'")
    stem = torch.nn.Conv2d(3, 3, 1)
    stem.weight.data = (1.5 * torch.eye(3) - 0.5)[:, :, None, None] / 64
    model = torch.nn.Sequential(stem, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    program = torch.export.export(model, (torch.zeros(1, 3, SIDE, SIDE),))
    torch.export.save(program, str(tmp_path / "model.pt2"))
    words = ["--images", colour_pictures(tmp_path / "pictures", 40), "--labels", labels(tmp_path / "labels.txt")]
    words += ["--mean", "0", "--std", "1", "--color", "bgr", "--backend", "onnxruntime", "--backend", "litert", *NATIVE]
    assert main(["quantize", str(tmp_path / "model.pt2"), *map(str, words), "-o", str(tmp_path / "made")]) == 0
    bundle = open_bundle(tmp_path / "made")
    assert sorted(one.format for one in bundle.artefacts) == ["onnx", "tflite"]
    assert bundle.input.layout == "nchw"
    assert [bundle.input_for(one).layout for one in bundle.artefacts if one.format == "tflite"] == ["nhwc"]


def test_a_model_that_timm_does_not_have_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs timm: pip install 'lineside[quantize-torch]'")
    with pytest.raises(ConfigError, match=r"timm:no_such_net: timm .* has no such model"):
        export("timm:no_such_net", None, tmp_path)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'lineside[quantize-torch]'")
    (tmp_path / "weights.pt2").write_bytes(b"no program")
    with pytest.raises(ConfigError, match=r"is no program of torch\.export"):
        export(str(tmp_path / "weights.pt2"), None, tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        export(str(tmp_path / "absent.pt2"), None, tmp_path)
