"""Convolutional conditional neural process: phi is a function on a grid that a CNN computes from the support."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.grid import Grid, GridConv, GridUNet, SetConv
from metabox.ranges import Between, Count, Positive, Real
from metabox.targets import TaskSpec
from metabox.targets.vector import RealVector


class ConvCNP(Learner):
    """ConvCNP (Gordon et al. 2020, "Convolutional Conditional Neural Processes", algorithm 1, off the grid).

    The support becomes a function on a grid, E(x) = Σ_i (1, y_i) ψ(x - x_i), whose first channel is a density that
    divides the others. A CNN maps it to another function h, and a query reads Σ_t h(t) ψ'(x - t) over the grid points
    t. ψ and ψ' are Gaussians with learned length scales. Away from the ends of the grid, moving support and query
    together moves the predictions: it is equivariant to translation by multiples of the coarsest spacing.

    phi is the function h, so the CNN runs once per task, and queries cost little.

    Three networks are built in. "wide", the default, is the U-Net of Bruinsma's package neuralprocesses, with equally
    many channels at every level. "xl" and "small" are ConvCNPXL and ConvCNP of the authors' code
    (github.com/cambridge-mlg/convcnp), with 50,612 and 6,532 weights for one input and one output: a linear map of E at
    each grid point and a sigmoid precede the CNN, ψ has a length scale for each channel of E, and mean and scale are
    each read by a ψ' and a linear map of its own, with a length scale for each channel. The CNN of "xl" is a U-Net with
    1, 1, 2, 2, 4, 4 and 8 times `width` channels from the input on, whose input is concatenated to its output; that of
    "small" has four layers with 2, 4, 2 and 1 times `width` channels.

    Deviations: the grid is fixed by `domain`, where the paper's spans the inputs of a batch, so that it depends on no
    query and no other task; see `beyond` for inputs outside it. Images (x in two dimensions) are treated as any set of
    points; the paper has a separate variant for them. A descriptor (the paper has none) enters the CNN as
    constant channels.

    Args:
        spec: the tasks, with one or two inputs.
        domain: range of the inputs in each dimension; of inputs at location 0 and scale 1, if the spec has a `scale`.
            The grid ends a margin of at least 0.1 beyond it.
        points_per_unit: grid points per unit of x; by default 64 for one input, as in the paper, and 4 for two.
        network: "wide", "xl" or "small".
        width: channels of the CNN; by default 64 for "wide", and 8 for the authors' networks, as there.
        depth: levels of the U-Net "wide", each half as long as the one above; by default 6 for one input, 3 for two.
            "xl" always has 6.
        kernel: size of its kernels; odd.
        beyond: what happens to inputs beyond the grid: "error", in evaluation, or "edge": queries are answered as at
            the grid's end, and support there is left out. By default "edge" if the spec's `scale` is "support", for no
            domain holds all tasks then, else "error".

    Raises:
        ValueError: if inputs have another shape, an option is out of range, or a grid takes more than 1 GiB a task. By
            `adapt` and `predict`, for inputs outside the grid (in evaluation, unless `beyond` is "edge"), or more tasks
            at a time than fit 64 GiB.
    """

    method = Method(
        adapt=(
            ("place on a grid", r"E(t) = \sum_{n=1}^N (1, y_n)\, \psi(t - x_n)"),
            ("normalise by density", r"E_{2:}(t) \leftarrow E_{2:}(t) / E_1(t)"),
            ("CNN over the grid", r"\task = \{h(t)\}_{t \in \mathrm{grid}}, \quad h = \net{CNN}(E)"),
        ),
        predict=(
            ("read between points", r"u(x) = \sum_t h(t)\, \psi'(x - t), \quad h \in \task"),
            ("parameters", r"p(y \mid x, \task) = p\big(y; u(x)\big)"),
        ),
        cost=("N", "M"),
        kin={"CNP": "the code is a function of x on a grid, so that moving the support moves the predictions"},
        exports=False,
    )
    targets = (RealVector,)

    def __init__(
        self,
        spec: TaskSpec,
        *,
        domain: Between[Real] = (-2.0, 2.0),
        points_per_unit: Positive | None = None,
        network: Literal["wide", "xl", "small"] = "wide",
        width: Count | None = None,
        depth: Count | None = None,
        kernel: Count = 5,
        beyond: Literal["error", "edge"] | None = None,
    ) -> None:
        super().__init__(spec)
        if spec.x_shape not in ((1,), (2,)):
            raise ValueError(f"expected one or two inputs, x_shape (1,) or (2,), got {spec.x_shape}; use CNP or TNPD")
        (dim,), (low, high) = spec.x_shape, domain
        density = (64.0 if dim == 1 else 4.0) if points_per_unit is None else points_per_unit
        if low == high or kernel % 2 == 0:
            raise ValueError(f"expected domain with low < high and an odd kernel, got {domain} and {kernel}")
        self.beyond = beyond or ("edge" if spec.scale == "support" else "error")
        if depth is not None and network != "wide":
            raise ValueError(f'expected a depth for network "wide" only, got {depth} for "{network}"')
        self.network, inputs, n_params = network, 1 + spec.target.label_size, spec.target.n_params
        width = (64 if network == "wide" else 8) if width is None else width
        depth = (6 if dim == 1 else 3) if depth is None else depth
        channels = [width * times for times in TIMES.get(network, [1] * depth)]
        multiple = 1 if network == "small" else 2 ** len(channels)
        self.map_bytes = _check_memory(dim, domain, density, multiple, max(channels[0], width))
        self.cnn: GridUNet | GridConv
        self.decode: SetConv | nn.ModuleList
        self.readout: nn.Linear | nn.ModuleList
        grid, scale = Grid(dim, low, high, density, multiple=multiple), 2 / density
        if network == "wide":
            self.encode = SetConv(grid, scale)
            self.cnn = GridUNet(dim, inputs + spec.descriptor_size, channels, kernel)
            self.readout = nn.Linear(width, n_params)
            self.decode = SetConv(grid, scale)
            return
        self.encode = SetConv(grid, scale, inputs)
        self.embed = nn.Linear(inputs, width)
        self.cnn = (GridUNet if network == "xl" else GridConv)(dim, width + spec.descriptor_size, channels, kernel)
        out = channels[-1] if network == "small" else channels[0] + width + spec.descriptor_size
        self.decode = nn.ModuleList(SetConv(grid, scale, out) for _ in range(n_params))
        self.readout = nn.ModuleList(nn.Linear(out, 1) for _ in range(n_params))
        self._initialise()

    def _initialise(self) -> None:
        """As the authors' code does: Xavier's normal weights; biases 0.001 in the U-Net, else 0."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_normal_(parameter)
            elif name.endswith("bias"):
                nn.init.constant_(parameter, 1e-3 if self.network == "xl" and name.startswith("cnn") else 0.0)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `field [T, P, G, H]`, a function on the grid for each natural parameter; "xl", "small": each channel."""
        if len(support) * self.map_bytes > MOST_BYTES:
            raise ValueError(
                f"expected tasks whose grids take at most {MOST_BYTES / GIB:g} GiB together, got {len(support)} of "
                f"{self.map_bytes / GIB:.3g} GiB each; take fewer at a time, or a smaller points_per_unit"
            )
        if self.beyond == "error" and self._reads_values():
            self._check_inside(support.x, support.mask)
        here = (support.mask[..., None] & self._inside(support.x).all(-1, keepdim=True)).float()
        density, values = self.encode.to_grid(support.x, torch.cat([here, here * support.y], dim=-1)).split(
            [1, self.spec.target.label_size], dim=1
        )
        seen = torch.cat([density, values / (density + SMALLEST)], dim=1)
        known = [seen if self.network == "wide" else _pointwise(self.embed, seen).sigmoid()]
        if descriptor is not None:
            known.append(descriptor[..., None, None].float().expand(-1, -1, *density.shape[2:]))
        h = self.cnn(torch.cat(known, dim=1))
        if isinstance(self.readout, nn.Linear):
            return {"field": _pointwise(self.readout, h)}
        return {"field": torch.cat([*known, h.float()], dim=1) if self.network == "xl" else h.float()}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        if self.beyond == "edge":
            x = x.clamp(*self.encode.grid.ends)
        elif self._reads_values():
            self._check_inside(x, ~self.may_be_padding(x, phi))
        if isinstance(self.decode, SetConv):
            return self.decode.from_grid(phi["field"], x)
        with torch.autocast(x.device.type, enabled=False):
            read = zip(self.decode, cast(nn.ModuleList, self.readout), strict=True)
            return torch.cat([linear(cast(SetConv, decode).from_grid(phi["field"], x)) for decode, linear in read], -1)

    def _inside(self, x: Tensor) -> Tensor:
        low, high = self.encode.grid.ends
        return (x >= low) & (x <= high)

    def _check_inside(self, x: Tensor, there: Tensor) -> None:
        low, high = self.encode.grid.ends
        outside = ~self._inside(x) & there[..., None]
        if bool(outside.any()):
            scaled = " at location 0 and scale 1" if self.scaler is not None else ""
            raise ValueError(
                f"expected x{scaled} on the grid, from {low:.4g} to {high:.4g}, got {float(x[outside][0]):.4g} among "
                f"{int(outside.sum())} outside; build the learner with a wider domain"
            )


def _pointwise(linear: nn.Linear, h: Tensor) -> Tensor:
    """A linear map of the channels at each point of a grid: `[T, C, G, H]`, float32."""
    with torch.autocast(h.device.type, enabled=False):  # the sums that follow need float32
        out: Tensor = linear(h.float().movedim(1, -1)).movedim(-1, 1)
        return out


SMALLEST = 1e-8
TIMES = {"xl": (1, 2, 2, 4, 4, 8), "small": (2, 4, 2, 1)}  # the channels of the authors' networks, in widths
GIB = 2**30
MOST_BYTES_A_TASK, MOST_BYTES = GIB, 64 * GIB
MAPS = 6  # of `width` channels that the U-Net holds at full length, about: both ways, with gradients


def _check_memory(dim: int, domain: tuple[float, float], density: float, multiple: int, width: int) -> int:
    """The bytes that a task's grid takes in the U-Net, estimated before anything is allocated."""
    length = (domain[1] - domain[0] + 0.2) * density
    needed = 4 * MAPS * width * max(length, multiple) ** dim if length < 1e15 else math.inf
    if needed > MOST_BYTES_A_TASK:
        fits = (MOST_BYTES_A_TASK / (4 * MAPS * width)) ** (1 / dim) / (domain[1] - domain[0] + 0.2)
        raise ValueError(
            f"expected a grid of at most {MOST_BYTES_A_TASK / GIB:g} GiB a task, got {length:.4g} points"
            f"{' in each direction' if dim == 2 else ''} ({needed / GIB:.3g} GiB); use points_per_unit={fits:.2g} or "
            "less, or a narrower domain"
        )
    return int(needed)
