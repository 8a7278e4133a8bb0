"""Quantisation-aware fine-tuning: a network learns to answer with weights and activations rounded to 8 bits.

Each convolution rounds its weights to one scale a channel and what leaves its ReLU to one scale a tensor, as the INT8
files will, and lets gradients pass as if it had not (Jacob et al. 2018, arXiv:1712.05877). Batch normalisation is
folded into the convolutions before.
"""

# mypy: disable-error-code="misc,no-any-return"
# (torch is not installed where types are checked)

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from yolo import Conv, Yolo

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


def rounded(net: Yolo) -> Yolo:
    """A copy that rounds, to be trained."""
    return _with(net, lambda module: Rounded(fuse_conv_bn_eval(module[0], module[1])), Conv)


def unrounded(net: Yolo) -> Yolo:
    """A copy of what `rounded` gave, after training, as a float network again."""
    return _with(net, lambda module: nn.Sequential(module.conv, nn.ReLU(inplace=True)), Rounded)


def _with(net: Yolo, make: Callable[[Any], nn.Module], kind: type[nn.Module]) -> Yolo:
    made = copy.deepcopy(net).eval()
    for name, module in list(made.named_modules()):
        if isinstance(module, kind):
            parent, _, last = name.rpartition(".")
            setattr(made.get_submodule(parent), last, make(module))
    return made
