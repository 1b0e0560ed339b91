"""What stands in for a GPU on a CPU: a mode that refuses to wait for it, and a recorder in place of CUDA graphs.

The recorder runs the operations of a call again in the same memory. As in a CUDA graph, what the host computed is
fixed: a number, a branch, a size. Tensors are read anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metabox.training.graphs import Outcome


class WaitsForTheDevice(RuntimeError):
    """A number was read, which a GPU would be waited for, and which no graph can hold."""


class NoWait(TorchDispatchMode):
    """Refuses what would wait for a GPU: reading a number, and sizes that depend on numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "equal") or by_mask:
            raise WaitsForTheDevice(name)
        return func(*args, **(kwargs or {}))


class Recording(NoWait):
    """Records each operation with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[tuple[int, Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "lift_fresh":  # its memory may be another's when the graph is replayed
            raise WaitsForTheDevice("a tensor made of numbers on the host")
        result = super().__torch_dispatch__(func, types, args, kwargs)
        given = {_memory(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [(i, leaf) for i, leaf in enumerate(tree_leaves(result)) if isinstance(leaf, Tensor)]
        fresh = [(i, leaf.detach()) for i, leaf in made if _memory(leaf) not in given]  # not views
        self.operations.append((func, args, kwargs or {}, fresh))
        return result


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recorded:
    """A recorder for `Captured`."""

    replays = 0

    def apart(self, call: Callable[[], Outcome]) -> Outcome:
        return call()

    def record(self, call: Callable[[], Outcome]) -> None:
        with Recording() as self.recording:
            self.outcome = call()
        self.ran = True  # while it was recorded, unlike a CUDA graph

    @torch.no_grad()
    def replay(self) -> Outcome:
        self.replays += 1
        if not self.ran:
            for func, args, kwargs, fresh in self.recording.operations:
                leaves = tree_leaves(func(*args, **kwargs))
                for i, into in fresh:
                    into.copy_(leaves[i])
        self.ran = False
        return self.outcome
