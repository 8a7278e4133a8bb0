"""How far features are from those of good parts: spots of the picture, and the picture as a whole.

Mahalanobis distances: of each spot's features, measured against the mean and spread of its own picture, so that
exposure and the finish of one part do not count; and of those means and spreads, which tell when a whole part is unlike
others. After Rippel et al. 2020 ("Modeling the distribution of normal data in pre-trained deep features for anomaly
detection") and Defard et al. 2020 (PaDiM), with one distribution for all places, since parts lie anywhere.
"""

# mypy: disable-error-code="misc,no-any-return,untyped-decorator,no-untyped-call"
# (torch is not installed where types are checked)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

SIDE = 320  # pixels of the canvas
NEAR = 3  # a spot is a mean over so many cells of the map, each way
EDGE = 1  # cells that are not judged; in the fit they are, so that it knows what edges look like
LEAST = 0.1  # added to a picture's own spread, so that a channel that hardly moves does not count


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was learned of good pictures. `scales` (1, C, 1, 1) make the two maps alike; C = 160."""

    scales: Tensor
    spot_mean: Tensor  # (C,)
    spot_white: Tensor  # (C, C) rows: directions, each divided by its standard deviation
    whole_mean: Tensor  # (2 C,)
    whole_white: Tensor  # (2 C, 2 C)

    @classmethod
    def of(cls, near: Tensor, far: Tensor, local: float, whole: float) -> Fitted:
        """From the maps of good pictures (N, 64, h, w), (N, 96, h, w), and of their mirror images.

        `local`, `whole`: how much of the mean variance is added to the variance in each direction.
        """
        size = [(part.pow(2).sum(1).mean().sqrt() + torch.zeros(part.shape[1])) for part in (near, far)]
        scales = 1 / torch.cat(size)[None, :, None, None]
        maps = torch.cat((near, far), 1) * scales
        wholes, spots = describe(torch.cat((maps, maps.flip(3))))
        flat = spots.permute(0, 2, 3, 1).reshape(-1, spots.shape[1])
        return cls(scales, flat.mean(0), whitening(flat, local), wholes.mean(0), whitening(wholes, whole, alike=True))


def describe(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (N, C, h, w) -> mean and spread of each picture (N, 2 C), and its spots (N, C, h, w)."""
    near = F.avg_pool2d(maps, NEAR, 1, NEAR // 2, count_include_pad=False)
    mean = near.mean((2, 3), keepdim=True)
    spots = (near - mean) / (spread(near) + LEAST / maps.shape[1] ** 0.5)
    return torch.cat((mean, spread(near[:, :, EDGE:-EDGE, EDGE:-EDGE])), 1).flatten(1), spots


def spread(maps: Tensor) -> Tensor:
    """Standard deviation of each channel over its picture: (N, C, 1, 1)."""
    apart = maps - maps.mean((2, 3), keepdim=True)
    return ((apart * apart).mean((2, 3), keepdim=True) + 1e-6).sqrt()


def whitening(rows: Tensor, added: float, alike: bool = False) -> Tensor:
    """(D, D) such that white @ (row - mean) has about the same variance in each direction. `alike`: channels count by
    their own spread, not by their size."""
    apart = (rows - rows.mean(0)).double()
    size = apart.std(0) + 1e-6 if alike else torch.ones(rows.shape[1], dtype=torch.double)
    apart = apart / size
    variances, directions = torch.linalg.eigh(apart.T @ apart / len(apart))
    return ((directions / (variances + added * variances.mean()).sqrt()).T / size).float()


class Distances(nn.Module):
    """Maps of pictures (B, 64, h, w), (B, 96, h, w) -> pred_score (B, 1), anomaly_map (B, 1, h, w)."""

    def __init__(self, fitted: Fitted) -> None:
        super().__init__()
        channels = len(fitted.spot_mean)
        self.register_buffer("scales", fitted.scales)
        self.spot, self.whole = nn.Conv2d(channels, channels, 1), nn.Linear(2 * channels, 2 * channels)
        with torch.no_grad():
            self.spot.weight.copy_(fitted.spot_white[:, :, None, None])
            self.spot.bias.copy_(-fitted.spot_white @ fitted.spot_mean)
            self.whole.weight.copy_(fitted.whole_white)
            self.whole.bias.copy_(-fitted.whole_white @ fitted.whole_mean)
        self.set_scale(0.0, 1.0, 0.0, 1.0, 0.0, 1.0)

    def set_scale(
        self, spot_mean: float, spot_spread: float, whole_mean: float, whole_spread: float, limit: float, spread: float
    ) -> None:
        """Mean and spread of both distances for good pictures; `limit` and `spread` of their sum in those units."""
        self.spot_scale, self.whole_scale = (spot_mean, spot_spread), (whole_mean, whole_spread)
        self.limit, self.spread = limit, spread

    def parts(self, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of each spot but those at the edge (B, 1, h - 2, w - 2), and of the whole (B,)."""
        wholes, spots = describe(torch.cat((near, far), 1) * self.scales)
        white = self.spot(spots)[:, :, EDGE:-EDGE, EDGE:-EDGE]
        whole = self.whole(wholes)
        return (white * white).sum(1, keepdim=True).sqrt(), (whole * whole).sum(1).sqrt()

    def forward(self, near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        spots, whole = self.parts(near, far)
        spots = (spots - self.spot_scale[0]) / self.spot_scale[1]
        whole = (whole - self.whole_scale[0]) / self.whole_scale[1]
        score = spots.amax((2, 3)) + whole[:, None]
        heat = torch.sigmoid((spots - self.limit) / self.spread)
        return torch.sigmoid((score - self.limit) / self.spread), F.pad(heat, (EDGE,) * 4)
