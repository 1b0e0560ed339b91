"""Serving without metabox: `adapt` and `predict` as two graphs that need only torch.

export(learner, episodes, "served")                # once, here
adapt = torch.export.load("served/adapt.pt2").module()      # anywhere, or `load_exported("served", trusted=True)`
predict = torch.export.load("served/predict.pt2").module()
phi = adapt(x, y, mask, classes)                   # for classes; a descriptor comes last
params = predict(phi, queries)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from metabox.checks import checked
from metabox.episodes import Episodes, Examples
from metabox.files import write_atomically
from metabox.learners.base import Learner, Phi

ADAPT, PREDICT = "adapt.pt2", "predict.pt2"
MOST = 16_384  # queries in a call, a limit of torch's attention on a GPU


class Served(NamedTuple):
    """The two graphs of a folder.

    adapt: `x [T, N, *x_shape], y, mask[, classes [T, C]][, descriptor]` -> phi; `classes` if targets are classes
    predict: `phi, x [T, M, *x_shape]` -> `[T, M, P]`
    """

    adapt: Callable[..., Phi]
    predict: Callable[[Phi, Tensor], Tensor]


class _Adapt(nn.Module):
    """`adapt` with plain tensors as arguments."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, x: Tensor, y: Tensor, mask: Tensor, *more: Tensor) -> Phi:
        classes, rest = (None, more) if self.learner.spec.target.n_classes is None else (more[0], more[1:])
        return self.learner.adapt(Examples(x=x, y=y, mask=mask), rest[0] if rest else None, classes)


class _Predict(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, phi: Phi, x: Tensor) -> Tensor:
        return self.learner.predict(phi, x)


@checked
def export(learner: Learner, episodes: Episodes, folder: str | Path) -> None:
    """Write `adapt.pt2` and `predict.pt2`, for batches of episodes like the one given.

    The number of queries M is free, up to 16,384. The numbers of tasks T and of support examples N are those of the
    episodes: pad a smaller support to N, with a mask, which changes no prediction. The graphs check no inputs.

    Args:
        learner: in evaluation mode, on the device that will run the graphs.
        episodes: example inputs; their values do not matter.
        folder: where the two files go.

    Raises:
        ValueError: if the learner is in training mode, or does what a graph cannot express: take gradients in `adapt`,
            or branch on a number in a tensor.
    """
    if learner.training:
        raise ValueError("expected a learner in evaluation mode, got one in training; call learner.eval() first")
    s, x = episodes.support, episodes.query.x
    if x.shape[1] < 2:
        x = torch.cat([x, x], dim=1)  # the tracer takes a size of 1 for a constant
    given = tuple(part for part in (episodes.label_set(learner.spec), episodes.descriptor) if part is not None)
    adapt = _export(_Adapt(learner), (s.x, s.y, s.mask, *given))
    phi = cast(Phi, adapt.module()(s.x, s.y, s.mask, *given))
    predict = _export(_Predict(learner), (phi, x), {"phi": dict.fromkeys(phi), "x": {1: Dim("M", min=1, max=MOST)}})
    for name, program in ((ADAPT, adapt), (PREDICT, predict)):
        _save(Path(folder) / name, program)


@checked
def load_exported(folder: str | Path, trusted: bool = False) -> Served:
    """The graphs that `export` wrote, on the device that they were exported from.

    Args:
        folder: where the two files are.
        trusted: confirms that you know who made them. torch's format for graphs contains pickles, and can run any code
            when it is read; there is no safe way to read untrusted ones.

    Raises:
        ValueError: if `trusted` is not True, or the files are missing or damaged.
    """
    if trusted is not True:
        raise ValueError(
            f"expected trusted=True to load the graphs in {folder}, got {trusted!r}: files of torch.export can run any "
            "code when they are read; load only your own, and export an untrusted learner again from its run"
        )
    try:
        adapt, predict = (torch.export.load(Path(folder) / name).module() for name in (ADAPT, PREDICT))
    except Exception as error:  # a damaged file can make its reader raise anything
        raise ValueError(f"expected {ADAPT} and {PREDICT} of metabox.export in {folder}, got {error}") from error
    return Served(adapt, predict)


@torch.no_grad()
def _export(module: nn.Module, arguments: tuple[Any, ...], dynamic: dict[str, Any] | None = None) -> ExportedProgram:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer touches deprecated parts of torch
            return torch.export.export(module, arguments, dynamic_shapes=dynamic)
    except Exception as error:  # the tracer raises many types
        name = type(module.learner).__name__
        raise ValueError(
            f"expected a learner whose adapt and predict are fixed graphs, got {name}, which cannot be exported; "
            f"serve it through metabox ({str(error).strip().partition(chr(10))[0]})"
        ) from error


def _save(path: Path, program: ExportedProgram) -> None:
    def write(temporary: Path) -> None:
        with warnings.catch_warnings(), temporary.open("wb") as stream:
            warnings.simplefilter("ignore")  # about torch's own format
            torch.export.save(program, stream)

    write_atomically(path, write)
