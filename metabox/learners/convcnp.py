"""Convolutional conditional neural process: phi is a function on a grid that a CNN computes from the support."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.nn.grid import Grid, GridUNet, SetConv
from metabox.ranges import Between, Count, Positive, Real
from metabox.targets import Reals, TaskSpec


class ConvCNP(Learner):
    """ConvCNP (Gordon et al. 2020, "Convolutional Conditional Neural Processes", algorithm 1, off the grid).

    The support becomes a function on a grid, E(x) = Σ_i (1, y_i) ψ(x - x_i), whose first channel is a density that
    divides the others. A CNN maps it to another function h, and a query reads Σ_t h(t) ψ'(x - t) over the grid points
    t. ψ and ψ' are Gaussians with learned length scales. Away from the ends of the grid, moving support and query
    together moves the predictions: it is equivariant to translation by multiples of the coarsest spacing.

    phi is the function h, so the CNN runs once per task, and queries cost little.

    Deviations: the grid is fixed by `domain`, where the paper's spans the inputs of a batch, so that it depends on no
    query and no other task. There is no perceptron between E and the CNN. ψ has one length scale for all its channels,
    and so has ψ'. Images (x in two dimensions) are treated as any set of points; the paper has a separate variant for
    them. A descriptor (the paper has none) enters the CNN as constant channels.

    Args:
        spec: the tasks, with one or two inputs.
        domain: range of the inputs in each dimension. The grid ends a margin of 0.1 beyond it, and predictions soon
            become constant there.
        points_per_unit: grid points per unit of x; by default 64 for one input, as in the paper, and 4 for two.
        width: channels of the CNN, a U-Net.
        depth: its levels, each half as long as the one above; by default 6 for one input, as in the paper, 3 for two.
        kernel: size of its kernels; odd.

    Raises:
        ValueError: if inputs have another shape, or an option is out of range.
    """

    targets = (Reals,)

    def __init__(
        self,
        spec: TaskSpec,
        *,
        domain: Between[Real] = (-2.0, 2.0),
        points_per_unit: Positive | None = None,
        width: Count = 64,
        depth: Count | None = None,
        kernel: Count = 5,
    ) -> None:
        super().__init__(spec)
        if spec.x_shape not in ((1,), (2,)):
            raise ValueError(f"expected one or two inputs, x_shape (1,) or (2,), got {spec.x_shape}; use CNP or TNPD")
        (dim,), (low, high) = spec.x_shape, domain
        density = (64.0 if dim == 1 else 4.0) if points_per_unit is None else points_per_unit
        depth = (6 if dim == 1 else 3) if depth is None else depth
        if low == high or kernel % 2 == 0:
            raise ValueError(f"expected domain with low < high and an odd kernel, got {domain} and {kernel}")
        grid = Grid(dim, low, high, density, multiple=2**depth)
        self.encode = SetConv(grid, scale=2 / density)
        self.cnn = GridUNet(dim, 1 + spec.target.label_size + spec.descriptor_size, width, depth, kernel)
        self.readout = nn.Linear(width, spec.target.n_params)
        self.decode = SetConv(grid, scale=2 / density)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `field [T, P, G, H]`, a function on the grid for each natural parameter."""
        here = support.mask[..., None].float()
        density, values = self.encode.to_grid(support.x, torch.cat([here, here * support.y], dim=-1)).split(
            [1, self.spec.target.label_size], dim=1
        )
        known = [density, values / (density + SMALLEST)]
        if descriptor is not None:
            known.append(descriptor[..., None, None].float().expand(-1, -1, *density.shape[2:]))
        h = self.cnn(torch.cat(known, dim=1))
        with torch.autocast(h.device.type, enabled=False):  # the sums that follow need float32
            return {"field": self.readout(h.float().movedim(1, -1)).movedim(-1, 1)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self.decode.from_grid(phi["field"], x)


SMALLEST = 1e-8
