"""Queries of many tasks, each with an adaptation of its own, in few forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from metabox.adaptation import Adaptation
from metabox.checks import check
from metabox.data.views import views as views_of
from metabox.model import Model
from metabox.ranges import Count


@torch.no_grad()
def predict_many(
    model: Model, adaptations: Sequence[Adaptation], inputs: Sequence[Tensor], batch: Count = 64
) -> list[Tensor]:
    """`Model.predict` for each task and its own queries, within rounding; tasks whose phi are alike share a pass.

    Args:
        model: that made all adaptations.
        adaptations: one for each task; the same one may come several times.
        inputs: the queries `[M, *x_shape]` of each task, as `Model.inputs` returns them; M may differ.
        batch: queries at a time, views and padding counted, for memory and, on a CPU, its cache.

    Returns:
        What `Model.predict` returns, for each task.

    Raises:
        ValueError: if an adaptation is of another model, or there is not one for each of `inputs`.
    """
    if len(adaptations) != len(inputs):
        raise ValueError(f"expected queries for each of {len(adaptations)} adaptations, got {len(inputs)}")
    check("batch", batch, Count)
    for adaptation in adaptations:
        model.check_own(adaptation)
    found: list[Tensor | None] = [None] * len(inputs)
    for tasks in _alike(model, adaptations, inputs):
        for part in _portions(tasks, [len(inputs[i]) * adaptations[i].n_views for i in tasks], batch):
            if len(part) == 1 or model.transductive:
                for i in part:
                    found[i] = model.predict(adaptations[i], inputs[i], batch)
            else:
                answers = _together(model, [adaptations[i] for i in part], [inputs[i] for i in part])
                for i, answer in zip(part, answers, strict=True):
                    found[i] = answer
    return [answer for answer in found if answer is not None]


def _alike(model: Model, adaptations: Sequence[Adaptation], inputs: Sequence[Tensor]) -> list[list[int]]:
    """The numbers of tasks whose phi can be stacked, each group from few queries to many."""
    groups: dict[object, list[int]] = {}
    for i, (adaptation, x) in enumerate(zip(adaptations, inputs, strict=True)):
        form = tuple((name, part.dtype, part.shape) for name, part in sorted(adaptation.phi.items()))
        groups.setdefault((form, x.dtype, x.shape[1:]), []).append(i)
    return [sorted(tasks, key=lambda i: len(inputs[i])) for tasks in groups.values()]


def _portions(tasks: list[int], sizes: list[int], batch: int) -> Iterator[list[int]]:
    """Tasks in order, as many at a time as fit a batch if all are padded to the largest, which is the last."""
    part: list[int] = []
    for i, size in zip(tasks, sizes, strict=True):
        if part and size * (len(part) + 1) > batch:
            yield part
            part = []
        part.append(i)
    yield part


def _together(model: Model, adaptations: Sequence[Adaptation], inputs: Sequence[Tensor]) -> list[Tensor]:
    """One forward pass: phi stacked along the task axis, queries padded with zeros."""
    n_views, most, device = adaptations[0].n_views, max(map(len, inputs)), model.device
    x = torch.zeros(len(inputs), n_views, most, *inputs[0].shape[1:], dtype=inputs[0].dtype, device=device)
    for row, given in zip(x, inputs, strict=True):
        row[:, : len(given)] = given if n_views == 1 else views_of(given, n_views, each=False)
    names = adaptations[0].phi
    phi = {name: torch.cat([adaptation.phi[name].to(device) for adaptation in adaptations]) for name in names}
    params = model.params(phi, x.flatten(0, 1)).unflatten(0, (len(inputs), n_views))
    return [
        model.answers(part[:, : len(given)], adaptation)
        for part, given, adaptation in zip(params, inputs, adaptations, strict=True)
    ]
