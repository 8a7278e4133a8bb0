"""The trained detectors' network: begun with YOLOX-nano's weights, equalised and rounded. Needs torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch", reason="needs torch: pip install -r tools/train/requirements.txt")
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install -r tools/train/requirements.txt")
ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install -r tools/train/requirements.txt")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "train"))

import detector  # noqa: E402
import qat  # noqa: E402
import yolo  # noqa: E402
from yolo_loss import loss_of  # noqa: E402


def some(count: int = 2, side: int = 96) -> Any:
    return torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (count, 3, side, side)).astype(np.float32))


def spread(outputs: Any) -> list[float]:
    return [float(level.abs().max()) for pair in outputs for level in pair]


def test_yolox_nanos_weights_give_yolox_nanos_features(data: Path) -> None:
    path = data / "models" / "detect" / "yolox_nano_416.onnx"
    net = yolo.Yolo(yolo.Shape(classes=80, depthwise=True))
    for module in net.modules():
        if isinstance(module, yolo.Conv):
            module[2] = torch.nn.SiLU()
    pixels = some(2, 416)
    assert yolo.start_from_yolox_nano(net, path, pixels) == 104
    model = onnx.load(str(path))
    last = [node for node in model.graph.node if node.op_type == "Conv" and node.name == "Conv_380"]  # of the scores
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(last[0].input[0]))
    (wanted,) = ort.InferenceSession(model.SerializeToString()).run(
        [last[0].input[0]], {model.graph.input[0].name: pixels[:1].numpy()}
    )
    seen = []
    net.heads[2].of_score.register_forward_hook(lambda *said: seen.append(said[2]))
    with torch.no_grad():
        net.eval()(pixels[:1])
    np.testing.assert_allclose(seen[0].numpy(), wanted, atol=1e-3)


def test_equalising_changes_no_answer_and_makes_rounding_cost_less() -> None:
    torch.manual_seed(0)
    net = yolo.Yolo(yolo.Shape(classes=2, depthwise=False, depth=1, head_layers=1)).eval()
    with torch.no_grad():
        net.stem[1].weight[0] *= 200  # one channel far beyond the others
        for head in net.heads:
            head.score.weight.normal_()
    pixels = some(4)
    even = qat.equalised(net, pixels)
    with torch.no_grad():
        plain = net(pixels)
        for one, two in zip(plain, even(pixels), strict=True):
            for a, b in zip(one, two, strict=True):
                assert float((a - b).abs().max()) <= 1e-3 * max(spread(plain))

    def cost(before: Any) -> float:
        net_rounded = qat.rounded(before).train()
        with torch.no_grad():
            net_rounded(pixels)
            seen = net_rounded.eval()(pixels)
        return sum(float((a[0] - b[0]).square().mean()) for a, b in zip(plain, seen, strict=True))

    uneven = qat._with(
        net, lambda m: torch.nn.Sequential(qat.fuse_conv_bn_eval(m[0], m[1]), torch.nn.ReLU()), yolo.Conv
    )
    assert cost(even) < 0.8 * cost(uneven)


@pytest.mark.parametrize(
    "make",
    [
        lambda: yolo.Yolo(yolo.Shape(classes=1, depthwise=False, depth=1, head_layers=1)),
        lambda: detector.Detector(classes=1),
    ],
    ids=["yolo", "separable"],
)
def test_a_few_steps_teach_a_box(make: Any) -> None:
    torch.manual_seed(0)
    net = make()
    pixels = torch.zeros(2, 3, 96, 96)
    pixels[:, :, 30:60, 20:70] = 255
    truth = torch.tensor([[0, 20.0, 30.0, 70.0, 60.0]])
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    losses = []
    for _ in range(30):
        loss, _ = loss_of(net(pixels), [truth, truth])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    shapes = [tuple(output.shape[1:]) for output in yolo.Exported(net).eval()(pixels)]
    assert shapes == [(144, 1), (36, 1), (9, 1), (144, 32), (36, 32), (9, 32)]
