"""Data sets with rows and kinds of target of their own as the named tasks of one network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from metabox.targets import Part, Parts, TaskSpec
from metabox.tasks.rows import Rows


def join_tasks(tasks: Mapping[str, Rows]) -> Rows:
    """Several single tasks, such as classes here and reals there, as the named tasks of one network.

    The target of each task becomes a part of that name, and the labels of all other parts are missing in its rows: a
    row teaches the head of its own task, and what the tasks share. There are no descriptors, since each part has a
    head.

    Args:
        tasks: name to rows; x has the same shape and type in all of them.

    Raises:
        ValueError: for fewer than two tasks, one that has named tasks or parts itself, or different x.
    """
    if len(tasks) < 2 or not all(isinstance(rows, Rows) for rows in tasks.values()):
        raise ValueError(f"expected the Rows of two tasks at least, by name, got {list(tasks)}")
    if nested := [name for name, rows in tasks.items() if rows.spec.tasks or rows.spec.target.parts]:
        raise ValueError(f"expected tasks that have neither named tasks nor parts, got {nested} that have")
    kinds = {(rows.spec.x_shape, rows.x.dtype) for rows in tasks.values()}
    if len(kinds) != 1:
        raise ValueError(f"expected x of the same shape and type in all tasks, got {sorted(map(str, kinds))}")
    parts = [Part(name, rows.spec.target) for name, rows in tasks.items()]
    columns = np.cumsum([0] + [part.columns for part in parts])
    y = [_in_place(rows.y, int(start), int(columns[-1])) for start, rows in zip(columns, tasks.values(), strict=False)]
    (x_shape, _), *_ = kinds
    return Rows(
        x=torch.cat([rows.x for rows in tasks.values()]),
        y=torch.cat(y),
        split=np.concatenate([np.asarray(rows.split) for rows in tasks.values()]),
        spec=TaskSpec(x_shape, Parts(tuple(parts)), tasks=tuple(tasks)),
        task=np.repeat(np.arange(len(tasks)), [len(rows.x) for rows in tasks.values()]),
    )


def _in_place(y: Tensor, start: int, size: int) -> Tensor:
    """The labels of one task `[n]` or `[n, columns]` among the columns of all `[n, size]`, NaN elsewhere."""
    own = y.float().reshape(len(y), -1)
    whole = torch.full((len(y), size), math.nan)
    whole[:, start : start + own.shape[1]] = own
    return whole
