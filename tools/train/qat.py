"""Made ready for INT8: channels are made to reach about equally far, and the network learns to answer with rounded
weights and activations.

In training each convolution rounds its weights to one scale a channel and what leaves its ReLU to one scale a tensor,
as the INT8 files will, and lets gradients pass as if it had not (Jacob et al. 2018, arXiv:1712.05877).
"""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from yolo import Conv, Stage, Yolo

MOST = 100.0  # how much a channel is scaled at most
KEEP = 0.99  # of the range that was seen before, each step


class Rounded(nn.Module):
    """A convolution and its ReLU whose weights and answers are rounded to 8 bits."""

    highest: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.register_buffer("highest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        scale = weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-8) / 127
        zero = torch.zeros_like(scale, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)
        conv = self.conv
        y = torch.conv2d(x, rounded, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups).relu().float()
        if self.training:
            with torch.no_grad():
                seen = y.amax()
                self.highest.copy_(seen if self.highest == 0 else KEEP * self.highest + (1 - KEEP) * seen)
        step = float(self.highest.clamp(min=1e-6)) / 255
        return torch.fake_quantize_per_tensor_affine(y, step, 0, 0, 255)


@torch.no_grad()
def equalised(net: Yolo, pixels: Tensor) -> Yolo:
    """A copy without batch normalisation that gives the same answers, and whose channels reach less unequally far.

    A channel behind a ReLU may be made smaller and the weights that read it as much larger (Nagel et al. 2019,
    arXiv:1906.04721): here by the root of how far it reaches on `pixels` over how large those weights are.
    """
    made = _with(net, lambda module: nn.Sequential(fuse_conv_bn_eval(module[0], module[1]), nn.ReLU()), Conv)
    highest: dict[nn.Module, Tensor] = {}
    hooks = [
        writer.register_forward_hook(lambda conv, _, y: highest.update({conv: y.relu().amax((0, 2, 3))}))
        for writer, _ in pairs(made)
    ]
    made(pixels)
    for hook in hooks:
        hook.remove()
    for writer, readers in pairs(made):
        reach = highest[writer]
        strength = torch.stack([conv.weight[:, part].abs().amax((0, 2, 3)) for conv, part in readers]).amax(0)
        scale = (reach / strength.clamp(min=1e-6)).sqrt()
        scale = (scale / scale.median().clamp(min=1e-6)).clamp(1 / MOST, MOST)
        scale[reach <= 0] = 1
        writer.weight /= scale[:, None, None, None]
        writer.bias /= scale
        for conv, part in readers:
            conv.weight[:, part] *= scale[None, :, None, None]
    return made


def pairs(net: Yolo) -> list[tuple[nn.Conv2d, list[tuple[nn.Conv2d, slice]]]]:
    """Each convolution whose answers only convolutions read, and which of their inputs those are. What is added to
    something else is not among them."""
    every, w = slice(None), net.shape.width

    def entry(stage: Any, part: slice = every) -> list[tuple[nn.Conv2d, slice]]:
        return [(stage.into[0], part), (stage.past[0], part)]

    found = [
        (net.stem[0], [(net.dark2[0][0], every)]),
        (net.dark2[0][0], entry(net.dark2[1])),
        (net.dark2[1].out[0], [(net.dark3[0][0], every)]),
        (net.dark3[0][0], entry(net.dark3[1])),
        (net.dark3[1].out[0], [(net.dark4[0][0], every), *entry(net.up3, slice(4 * w, None))]),
        (net.dark4[0][0], entry(net.dark4[1])),
        (net.dark4[1].out[0], [(net.dark5[0][0], every), *entry(net.up4, slice(8 * w, None))]),
        (net.dark5[0][0], [(net.dark5[1].into[0], every)]),
        (net.dark5[1].out[0], entry(net.dark5[2])),
        (net.dark5[2].out[0], [(net.lateral[0], every)]),
        (net.up4.out[0], [(net.reduce[0], every)]),
    ]
    for stage in [module for module in net.modules() if isinstance(module, Stage)]:
        half = stage.past[0].out_channels
        found.append((stage.past[0], [(stage.out[0], slice(half, None))]))
        found += [(block[0][0], [(block[1][0], every)]) for block in stage.blocks]
    for head in net.heads:
        found.append((head.into[0], [(head.of_score[0][0], every), (head.of_side[0][0], every)]))
        for path, last in ((head.of_score, head.score), (head.of_side, head.side)):
            found += [(one[0], [(two[0], every)]) for one, two in itertools.pairwise(path)]
            found.append((path[-1][0], [(last, every)]))
    return found


def rounded(net: Yolo) -> Yolo:
    """A copy of an `equalised` network that rounds, to be trained."""
    made = copy.deepcopy(net)
    for name, module in list(made.named_modules()):
        if isinstance(module, nn.Sequential) and len(module) == 2 and isinstance(module[1], nn.ReLU):
            _put(made, name, Rounded(module[0]))
    return made


def unrounded(net: Yolo) -> Yolo:
    """A copy of what `rounded` gave, after training, as a float network again."""
    return _with(net, lambda module: nn.Sequential(module.conv, nn.ReLU(inplace=True)), Rounded)


def _with(net: Yolo, make: Callable[[Any], nn.Module], kind: type[nn.Module]) -> Yolo:
    made = copy.deepcopy(net).eval()
    for name, module in list(made.named_modules()):
        if isinstance(module, kind):
            _put(made, name, make(module))
    return made


def _put(net: Yolo, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, module)
