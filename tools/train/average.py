"""The running average of a network's weights, which is what ships."""

# mypy: disable-error-code="untyped-decorator"
# (torch is not installed where types are checked)

from __future__ import annotations

import torch


@torch.no_grad()
def follow(average: torch.nn.Module, net: torch.nn.Module, keep: float) -> None:
    """Keep so much of the average; the rest comes from the network. What is no real number is copied."""
    for mine, theirs in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.mul_(keep).add_(theirs, alpha=1 - keep)
        else:
            mine.copy_(theirs)
