"""Make INT8 models of YOLOv8n's shape, random weights, for the speed benchmarks: no licence question, the same cost.

    python3 -m venv .venv-bench
    .venv-bench/bin/pip install torch==2.13.0 onnx onnxruntime==1.31.1 openvino==2026.4.1 nncf litert-torch \\
        ai-edge-quantizer opencv-python-headless
    .venv-bench/bin/python tools/make_bench_models.py --video clip.mp4 -o out/bench_models

Writes yolov8n_{320,640}_int8.onnx (QDQ, U8S8 per channel, float in and out, boxes in pixels),
yolov8n_{320,640}_int8.xml (OpenVINO IR by NNCF, the same), yolov8n_{320,640}_int8.tflite (int8 in and out, boxes in
0 to 1), and yolov8n_{320,640}_fp32.onnx. The output is [1, 84, N]: centre x, centre y, width, height, then 80 class
scores. Class logits are shifted so far down that about `--findings` anchors of a calibration picture pass score 0.25,
as in a trained model on an ordinary scene: decode and NMS have a real picture's work.
"""

# mypy: disable-error-code="misc, import-not-found"
from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256)  # channels at stride 2, 4, 8, 16, 32
CLASSES, BINS = 80, 16  # COCO; box sides as distributions over 16 bins
STRIDES = (8, 16, 32)


def conv(into: int, out: int, size: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out, eps=1e-3), nn.SiLU()
    )


class Bottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.body, self.shortcut = nn.Sequential(conv(width, width, 3), conv(width, width, 3)), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


class Split(nn.Module):
    """Cross-stage block: half of the channels pass, half go through bottlenecks whose every output is kept."""

    def __init__(self, into: int, out: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        self.enter, self.leave = conv(into, out), conv(out // 2 * (2 + depth), out)
        self.steps = nn.ModuleList(Bottleneck(out // 2, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Pyramid(nn.Module):
    """Three max-pools of 5 in a row, all kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(width, width // 2), conv(width * 2, width)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Detector(nn.Module):
    """YOLOv8n's layers, widths and heads. `unit` is 1 for boxes in pixels, the side in pixels for boxes in 0 to 1."""

    def __init__(self, side: int, unit: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, e = WIDTHS
        self.stem = nn.Sequential(conv(3, a, 3, 2), conv(a, b, 3, 2), Split(b, b, 1, True))
        self.down3 = nn.Sequential(conv(b, c, 3, 2), Split(c, c, 2, True))
        self.down4 = nn.Sequential(conv(c, d, 3, 2), Split(d, d, 2, True))
        self.down5 = nn.Sequential(conv(d, e, 3, 2), Split(e, e, 1, True), Pyramid(e))
        self.up = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.top4, self.top3 = Split(e + d, d, 1, False), Split(d + c, c, 1, False)
        self.step4, self.out4 = conv(c, c, 3, 2), Split(c + d, d, 1, False)
        self.step5, self.out5 = conv(d, d, 3, 2), Split(d + e, e, 1, False)
        self.sides = nn.ModuleList(
            nn.Sequential(conv(w, 64, 3), conv(64, 64, 3), nn.Conv2d(64, 4 * BINS, 1)) for w in (c, d, e)
        )
        self.classes = nn.ModuleList(
            nn.Sequential(conv(w, 80, 3), conv(80, 80, 3), nn.Conv2d(80, CLASSES, 1)) for w in (c, d, e)
        )
        self.expect = nn.Conv2d(BINS, 1, 1, bias=False)  # the mean of a distribution over the bins
        self.expect.weight.data[:] = torch.arange(BINS, dtype=torch.float32).reshape(1, BINS, 1, 1)
        cells = [side // stride for stride in STRIDES]
        grids = [torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="xy")) for n in cells]
        centres = torch.cat([grid.reshape(2, -1) + 0.5 for grid in grids], 1)
        scale = torch.cat([torch.full((1, n * n), s / unit) for n, s in zip(cells, STRIDES, strict=True)], 1)
        self.register_buffer("centres", centres[None])
        self.register_buffer("scale", scale[None])

    def logits(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 4 * BINS, N) box bins and (1, CLASSES, N) class logits."""
        p3 = self.down3(self.stem(picture))
        p4 = self.down4(p3)
        p5 = self.down5(p4)
        m4 = self.top4(torch.cat([self.up(p5), p4], 1))
        n3 = self.top3(torch.cat([self.up(m4), p3], 1))
        n4 = self.out4(torch.cat([self.step4(n3), m4], 1))
        n5 = self.out5(torch.cat([self.step5(n4), p5], 1))
        levels = (n3, n4, n5)
        sides = torch.cat([head(x).flatten(2) for head, x in zip(self.sides, levels, strict=True)], 2)
        classes = torch.cat([head(x).flatten(2) for head, x in zip(self.classes, levels, strict=True)], 2)
        return sides, classes

    def forward(self, picture: Tensor) -> Tensor:
        sides, classes = self.logits(picture)
        bins = sides.reshape(1, 4, BINS, -1).transpose(1, 2).softmax(1)
        distance = self.expect(bins).squeeze(1)  # (1, 4, N): left, top, right, bottom, in cells
        low, high = self.centres - distance[:, :2], self.centres + distance[:, 2:]
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.scale
        return torch.cat([boxes, classes.sigmoid()], 1)


def pictures(video: str, side: int, count: int) -> list[Tensor]:
    """`count` frames spread over a video, letterboxed: (1, 3, side, side) RGB, 0 to 1."""
    import cv2

    capture = cv2.VideoCapture(video)
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    found: list[Tensor] = []
    for number in range(total):
        ok, frame = capture.read()
        if ok and number % max(1, total // count) == 0 and len(found) < count:
            ratio = side / max(frame.shape[:2])
            small = cv2.cvtColor(cv2.resize(frame, None, fx=ratio, fy=ratio), cv2.COLOR_BGR2RGB)
            canvas, top, left = np.full((side, side, 3), 114, np.uint8), *((side - n) // 2 for n in small.shape[:2])
            canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
            found.append(torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255)
    if not found:
        raise SystemExit(f"--video {video}: no frame could be read")
    return found


def settle(model: Detector, samples: list[Tensor], findings: int) -> None:
    """Give random weights sane activations: batch-norm statistics of real pictures, few scores above 0.25."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average over the samples
    model.train()
    with torch.no_grad():
        model.logits(torch.cat(samples))
        model.eval()
        best = torch.cat([model.logits(sample)[1].amax(1).flatten() for sample in samples])
        cut = best.kthvalue(best.numel() - findings * len(samples)).values
        for head in model.classes:
            head[-1].bias += math.log(0.25 / 0.75) - cut


def save_onnx(model: Detector, samples: list[Tensor], folder: Path, name: str) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows: Iterator[dict[str, NDArray[np.float32]]] = ({"images": s.numpy()} for s in samples)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.rows, None)

    plain = folder / f"{name}_fp32.onnx"
    torch.onnx.export(
        model, (samples[0],), plain, dynamo=False, opset_version=17, input_names=["images"], output_names=["output0"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        ready = Path(scratch) / "ready.onnx"
        quant_pre_process(str(plain), str(ready))
        quantize_static(
            str(ready),
            str(folder / f"{name}_int8.onnx"),
            Samples(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=after_heads(ready),  # one scale for boxes and scores together would erase the scores
        )


def after_heads(path: Path) -> list[str]:
    """Names of the nodes after the last convolutions of the heads: small, and left in float."""
    import onnx

    nodes = onnx.load(str(path)).graph.node
    last = [i for i, node in enumerate(nodes) if node.op_type == "Conv" and "expect" not in node.name][-1]
    return [node.name for node in nodes[last + 1 :]]


def save_openvino(model: Detector, samples: list[Tensor], folder: Path, name: str) -> None:
    import nncf
    import openvino as ov

    with tempfile.TemporaryDirectory() as scratch:  # by way of a file: NNCF places its steps better on a saved IR
        plain = str(Path(scratch) / "plain.xml")
        ov.save_model(ov.convert_model(model, example_input=samples[0], input=[samples[0].shape]), plain, False)
        network = ov.Core().read_model(plain)
        quantised = nncf.quantize(
            network,
            nncf.Dataset([sample.numpy() for sample in samples]),
            preset=nncf.QuantizationPreset.MIXED,  # SiLU wants asymmetric activations
            subset_size=len(samples),
        )
        ov.save_model(quantised, str(folder / f"{name}_int8.xml"))


def save_tflite(model: Detector, samples: list[Tensor], folder: Path, name: str) -> None:
    import litert_torch
    from ai_edge_quantizer import quantizer, recipe

    model = litert_torch.to_channel_last_io(model, args=[0]).eval()
    rows = [sample.permute(0, 2, 3, 1).contiguous() for sample in samples]
    with tempfile.TemporaryDirectory() as scratch:
        plain = str(Path(scratch) / "plain.tflite")
        litert_torch.convert(model, (rows[0],)).export(plain)
        worker = quantizer.Quantizer(plain, recipe.static_wi8_ai8())
        statistics = worker.calibrate({"serving_default": [{"args_0": row.numpy()} for row in rows]})
        worker.quantize(statistics).export_model(str(folder / f"{name}_int8.tflite"), overwrite=True)


# file ending -> how it is made, whether its boxes are in 0 to 1
FORMATS: dict[str, tuple[Callable[[Detector, list[Tensor], Path, str], None], bool]] = {
    "onnx": (save_onnx, False),
    "xml": (save_openvino, False),
    "tflite": (save_tflite, True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", required=True, help="frames to calibrate on")
    parser.add_argument("--sides", type=int, nargs="+", default=[320, 640], help="input sizes in pixels")
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--findings", type=int, default=8, help="anchors above 0.25 per picture")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/bench_models"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for side in args.sides:
        samples = pictures(args.video, side, 16)
        for form, (save, normalised) in FORMATS.items():
            if form in args.formats:
                torch.manual_seed(0)
                model = Detector(side, float(side) if normalised else 1.0)
                settle(model, samples, args.findings)
                save(model, samples, args.output, f"yolov8n_{side}")
                print(f"{args.output}/yolov8n_{side}_int8.{form}", flush=True)


if __name__ == "__main__":
    main()
