"""The classifiers: MobileNetV2 that begins with ImageNet's weights, MobileViT blocks in it, ResNet50 to compare with.

All share one head. It looks twice: at the whole picture (a mean over the map) and for the one spot that stands out (a
maximum). In training the map before the maximum also says for each spot what it shows, which is what teaches a network
to find a pit of five pixels from three hundred pictures; that output is dropped when the model is exported.
"""

# mypy: disable-error-code="misc,no-any-return,no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
)  # widening, channels, blocks, stride
WIDE = 576  # of the last layer: what MobileNetV2 widens 96 channels to next
SPOT = 64
STRIDE_PX = 16  # of the map
FROZEN = 5  # blocks down to the stride of 4 stay ImageNet's: that halves the work, and few pictures teach them nothing


class Bottleneck(nn.Module):
    """MobileNetV2's inverted residual (Sandler et al. 2018); batch norm is folded into the convolutions."""

    def __init__(self, before: int, after: int, stride: int, widening: int) -> None:
        super().__init__()
        wide = before * widening
        layers: list[nn.Module] = [] if widening == 1 else [nn.Conv2d(before, wide, 1), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.ReLU6(inplace=True), nn.Conv2d(wide, after, 1)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet_blocks() -> list[nn.Module]:
    """MobileNetV2 down to its map of stride 16, its last layer widened: (B, 3, H, W) -> (B, 576, H / 16, W / 16)."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU6(inplace=True)]
    channels = 32
    for widening, after, count, stride in STAGES:
        for number in range(count):
            blocks.append(Bottleneck(channels, after, stride if number == 0 else 1, widening))
            channels = after
    return [*blocks, nn.Conv2d(channels, WIDE, 1), nn.ReLU6(inplace=True)]


def load_imagenet(blocks: nn.Sequential, weights: Path) -> None:
    """Copy torchvision's weights out of its ONNX file, which holds them in the layers' order, into the convolutions."""
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(str(weights)).graph.initializer}
    numbers = sorted(int(name[1:]) for name in held if name[1:].isdigit() and name[0] == "w")
    layers = [layer for layer in blocks.modules() if isinstance(layer, nn.Conv2d) and not hasattr(layer, "is_new")]
    for layer, number in zip(layers, numbers, strict=False):  # the file goes on to the stride of 32
        assert layer.bias is not None
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(held[f"w{number}"].copy()).view_as(layer.weight))
            layer.bias.copy_(torch.from_numpy(held[f"b{number}"].copy()))
    blocks[:FROZEN].requires_grad_(False)


class Encoder(nn.Module):
    """A transformer's layer: attention over tokens (N, T, D), then two fully connected layers, each added."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (
            self.qkv(self.before_attention(x)).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = torch.softmax(q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5, -1) @ v  # as every exporter knows it
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.narrow(F.relu(self.wide(self.before_mlp(x))))


class MobileViTBlock(nn.Module):
    """Mehta and Rastegari 2021: a 3 x 3 and a 1 x 1 convolution, transformer layers over the pixels that have the same
    place in their 2 x 2 patch, a 1 x 1 convolution back, and a 3 x 3 convolution over both. Begins as the identity, so
    that the pretrained layers behind it see at first what they were trained on. Sides of the map must be even.
    """

    def __init__(self, channels: int, width: int, depth: int, heads: int = 2) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 3, 1, 1)
        self.to_tokens = nn.Conv2d(channels, width, 1)
        self.encoders = nn.Sequential(*(Encoder(width, heads) for _ in range(depth)))
        self.last = nn.LayerNorm(width)
        self.back = nn.Conv2d(width, channels, 1)
        self.fuse = nn.Conv2d(2 * channels, channels, 3, 1, 1)
        for layer in (self.near, self.to_tokens, self.back, self.fuse):
            layer.is_new = True  # nothing of ImageNet in it
        with torch.no_grad():
            self.fuse.weight.mul_(0.1)[:, channels:] *= 0.1
            self.fuse.bias.zero_()
            for number in range(channels):
                self.fuse.weight[number] = 0
                self.fuse.weight[number, number, 1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.to_tokens(F.relu6(self.near(x)))
        n, d, h, w = y.shape
        tokens = y.reshape(n * d, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3)  # place in the patch, then patch
        tokens = tokens.reshape(n, d, 4, h * w // 4).permute(0, 2, 3, 1).reshape(n * 4, h * w // 4, d)
        tokens = self.last(self.encoders(tokens))
        y = tokens.reshape(n, 4, h * w // 4, d).permute(0, 3, 1, 2).reshape(n * d, 2, 2, h // 2, w // 2)
        y = y.permute(0, 3, 1, 4, 2).reshape(n, d, h, w)
        return self.fuse(torch.cat((x, F.relu6(self.back(y))), 1))


class Residual(nn.Module):
    """ResNet's bottleneck with the stride in its 3 x 3 convolution (He et al. 2015, as most build it)."""

    def __init__(self, before: int, wide: int, stride: int) -> None:
        super().__init__()
        after = 4 * wide
        self.layers = nn.Sequential(
            *normed(before, wide, 1, 1),
            nn.ReLU(inplace=True),
            *normed(wide, wide, 3, stride),
            nn.ReLU(inplace=True),
            *normed(wide, after, 1, 1),
        )
        nn.init.zeros_(self.layers[-1].weight)
        self.past = (
            nn.Identity() if before == after and stride == 1 else nn.Sequential(*normed(before, after, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.past(x) + self.layers(x))


def normed(before: int, after: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)


class Classifier(nn.Module):
    """Pictures (B, 3, H, W), normalised as ImageNet's -> logits (B, K); `looks` gives the map's, too.

    `near` ends with the map of stride 16, of `spots` channels; `far` goes on to what is averaged, of `channels`.
    """

    def __init__(self, near: nn.Module, far: nn.Module, spots: int, channels: int, classes: int) -> None:
        super().__init__()
        self.near, self.far = near, far
        self.spot = nn.Conv2d(spots, SPOT, 1)
        self.by_mean, self.by_spot = nn.Linear(channels, classes), nn.Linear(SPOT, classes)
        self.forget = nn.Dropout(0.3)  # of the mean, by which one part is soon known from another
        self.dense = nn.Conv2d(SPOT, classes, 1)
        nn.init.constant_(self.dense.bias, -3.0)  # nearly all of a picture shows no defect

    def looks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        near = self.near(x)
        spot = F.relu6(self.spot(near))
        logits = self.by_mean(self.forget(mean(self.far(near)))) + self.by_spot(greatest(spot))
        return logits, self.dense(spot)

    def forward(self, x: Tensor) -> Tensor:
        return self.looks(x)[0]


def mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), as a pooling: over axes, the exporter to TFLite would transpose the map for it."""
    return F.avg_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)


def greatest(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C), as a pooling, which INT8 TFLite knows; over axes there is no INT8 maximum."""
    return F.max_pool2d(x, (x.shape[2], x.shape[3])).flatten(1)


def mobilenet(classes: int, weights: Path) -> Classifier:
    """MobileNetV2 (Sandler et al. 2018), begun with ImageNet's weights."""
    near = nn.Sequential(*mobilenet_blocks())
    load_imagenet(near, weights)
    return Classifier(near, nn.Identity(), WIDE, WIDE, classes)


def mobilevit(classes: int, weights: Path) -> Classifier:
    """MobileViT blocks (Mehta and Rastegari 2021) behind MobileNetV2's stages of 64 and 96 channels."""
    blocks = mobilenet_blocks()
    blocks.insert(-2, MobileViTBlock(96, 96, 3))
    blocks.insert(-6, MobileViTBlock(64, 64, 2))
    near = nn.Sequential(*blocks)
    load_imagenet(near, weights)
    return Classifier(near, nn.Identity(), WIDE, WIDE, classes)


def resnet50(classes: int, weights: Path | None = None) -> Classifier:
    """ResNet50 (He et al. 2015), untrained: weights of ImageNet under a licence to ship were not to be had."""
    stages: list[nn.Module] = [*normed(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels, cut = 64, 0
    for wide, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        if wide == 512:
            cut = len(stages)
        for number in range(count):
            stages.append(Residual(channels, wide, stride if number == 0 else 1))
            channels = 4 * wide
    for layer in nn.Sequential(*stages).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return Classifier(nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:]), 1024, 2048, classes)


NETS = {"mobilenet": mobilenet, "mobilevit": mobilevit, "resnet50": resnet50}
