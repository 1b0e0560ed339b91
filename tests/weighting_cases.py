"""What the tests of weightings share: a network of several losses, and the gradients that a weighting leaves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from metabox.training.weighting import Weighting

pytest.importorskip("torchjd")


class Net(nn.Module):
    """A trunk and a head for each of K regressions."""

    def __init__(self, k: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(k))
        self.shared = list(self.trunk.parameters())

    def losses(self, step: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(8, 4, generator=generator), torch.randn(8, len(self.heads), generator=generator)
        outputs = torch.cat([head(self.trunk(x)) for head in self.heads], 1)
        return (outputs - y * torch.tensor([1.0, 3.0, 0.2])[: len(self.heads)]).square().mean(0)


def even(k: int) -> Tensor:
    return torch.full([k], 1 / k)


def gradients(
    weighting: Weighting, losses: Tensor, share: Tensor, shared: list, of: list | None = None, engine=None
) -> Tensor:
    """What `backward` leaves in `.grad`, flat."""
    of = shared if of is None else of
    for parameter in of:
        parameter.grad = None
    weighting.backward(losses, share, shared, engine or checked)
    return torch.cat([parameter.grad.flatten() for parameter in of])


def checked(loss: Tensor) -> None:
    assert not loss.isnan(), "a loss that the batch does not have was read"
    loss.backward()


def linear(rows: list[list[float]]) -> tuple[nn.Parameter, Tensor]:
    """Losses whose gradients are the given rows."""
    theta = nn.Parameter(torch.ones(len(rows[0])))
    return theta, torch.tensor(rows) @ theta
