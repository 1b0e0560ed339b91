"""Gradient surgery: steps that combine the gradients of the tasks other than by their sum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from metabox.multitask.weights import check_shared
from metabox.ranges import Count, NotNegative, TwoOrMore
from metabox.training.weighting import Backward, Weighting

Level = Literal["parameters", "representation"]
Method = Literal["pcgrad", "mgda", "cagrad", "nash", "imtl", "upgrad"]
Wanted = Sequence[Tensor] | Sequence[GradientEdge]
METHODS: tuple[Method, ...] = get_args(Method)
EXACT = 32
"""Up to so many rows the quadratic programme of MGDA is solved exactly."""


class Surgery(Weighting):
    """Gradient surgery on the shared parameters; the others get the gradient of the plain sum. Solved by torchjd.

    The rows of the Jacobian are the gradients of `K s_k L_k` over the K tasks of the batch: those of L_k if the shares
    are even. If all rows are equal, the update is that row, as for the plain sum; but (1 + c) times it for CAGrad, and
    of length at most 1 for Nash-MTL.

    - "pcgrad": Yu et al. 2020, algorithm 1; the mean of the projected gradients, where the paper has their sum.
    - "mgda": the shortest convex combination (Désidéri 2012; Sener & Koltun 2018, algorithm 2): solved exactly for at
      most EXACT tasks, by torchjd's Frank-Wolfe steps for more, which may stop short of it.
    - "cagrad": Liu et al. 2021, algorithm 1.
    - "nash": Nash-MTL, Navon et al. 2022, algorithm 1.
    - "imtl": IMTL-G, Liu et al. 2021 (Towards impartial multi-task learning), equation 3.
    - "upgrad": Quinton & Rey 2024.

    Args:
        n_losses: K.
        method: one of these.
        c: of CAGrad, how far the update may be from the mean gradient; 0.5 on the paper's toy problem.
        level: which gradients are the rows. "parameters": those of the shared parameters, K backward passes in all.
            "representation": those of what the shared parameters alone compute, before any task-specific part
            (Sener & Koltun 2018, equation 5, for MGDA), which takes K passes through the heads and one through the
            rest. It is for parts of one target, whose tasks have the same inputs.
        every: batches between updates of the row weights, to save time (Navon et al. 2022, section 5); each backward
            pass costs as much as that of the plain sum, and a batch with an update has K.

    Raises:
        ImportError: if torchjd or one of its solvers is missing.
        ValueError: in `backward`, if there is no representation, or each task has inputs of its own.
    """

    def __init__(
        self,
        n_losses: TwoOrMore,
        method: Method = "pcgrad",
        c: NotNegative = 0.5,
        level: Level = "parameters",
        every: Count = 1,
    ) -> None:
        super().__init__(n_losses)
        self.method, self.c, self.level, self.every = method, c, level, every
        self._solvers = {n_losses: self._solver(n_losses)}  # here, so that a missing package is reported at once
        self.register_buffer("relative", torch.ones(n_losses))  # weights of the rows, times their number
        self.register_buffer("alpha", torch.ones(n_losses, dtype=torch.float64))  # where Nash-MTL starts from
        self.register_buffer("batches", torch.tensor(0))

    def backward(self, losses: Tensor, share: Tensor, shared: Sequence[nn.Parameter], backward: Backward) -> None:
        self.check(losses, share)
        shared = check_shared(shared)
        here = (share > 0).nonzero().flatten()
        plain = (share[here] * losses[here]).sum()
        if len(here) < 2:
            return backward(plain)
        rows = len(here) * share[here] * losses[here]
        if self.level == "representation":
            edges = frontier(plain, shared)
            with _substituted(edges, self._combined(rows, here, edges)):
                return backward(plain)
        gradients = self._combined(rows, here, shared)
        ours = set(shared)
        rest = [parameter for parameter in leaves(plain) if parameter not in ours]
        gradients += torch.autograd.grad(plain, rest) if rest else ()
        # A linear loss with these gradients, so that the engine's backward pass writes them to `.grad`.
        return backward(torch.stack([(p * g).sum() for p, g in zip([*shared, *rest], gradients, strict=True)]).sum())

    def _combined(self, rows: Tensor, here: Tensor, wanted: Wanted) -> tuple[Tensor, ...]:
        """The weighted gradients of the rows with respect to `wanted`."""
        relative, batches = self.get_buffer("relative"), self.get_buffer("batches")
        batches += 1
        if (int(batches) - 1) % self.every:
            return _gradient((relative[here] * rows).mean(), wanted)
        # One row at a time: faster on a CPU than one vmap over all, and every layer supports it.
        each = [_gradient(row, wanted) for row in rows]
        parts = [torch.stack(part).flatten(1) for part in zip(*each, strict=True)]
        gramian = torch.stack([part.float() @ part.float().T for part in parts]).sum(0)
        if self.level == "representation" and not (gramian - gramian.diag().diag()).any():
            raise ValueError(
                "expected tasks with the same inputs, got gradients of the representation that are all orthogonal; "
                'use level="parameters" if each task has rows of its own'
            )
        if gramian.isfinite().all():  # else the loop skips this step
            relative[here] = len(here) * self._weights(gramian, here)
        weights = relative[here] / len(here)
        return tuple((weights.to(p.dtype) @ p).view_as(g) for p, g in zip(parts, each[0], strict=True))

    def _weights(self, gramian: Tensor, here: Tensor) -> Tensor:
        n, alpha = len(here), self.get_buffer("alpha")
        if self.method == "mgda" and n <= EXACT:
            return shortest(gramian)
        solver = self._solvers[n] = self._solvers.get(n) or self._solver(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # from cvxpy, about the form of its problem
            if self.method != "nash":
                weights: Tensor = solver(gramian)
                return weights / n if self.method == "pcgrad" else weights
            solver.prvs_alpha = alpha[here].cpu().numpy()
            weights = solver(_root(gramian))
            alpha[here] = torch.as_tensor(solver.prvs_alpha).to(alpha)
            return weights

    def _solver(self, n: int) -> Any:
        try:
            from torchjd import aggregation

            makers: dict[str, Callable[[], Any]] = {
                "pcgrad": aggregation.PCGradWeighting,
                "mgda": aggregation.MGDAWeighting,
                "cagrad": lambda: aggregation.CAGradWeighting(self.c),
                "nash": lambda: aggregation.NashMTL(n).weighting,
                "imtl": aggregation.IMTLGWeighting,
                "upgrad": aggregation.UPGradWeighting,
            }
            return makers[self.method]()
        except ImportError as error:
            raise ImportError(
                f"surgery by {self.method} needs torchjd and its solvers ({error}): "
                'pip install "torchjd[cagrad,nash-mtl,quadprog-projector]"'
            ) from error


def _gradient(loss: Tensor, wanted: Wanted) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, wanted, retain_graph=True, materialize_grads=True)


def _root(gramian: Tensor) -> Tensor:
    """A matrix J with J J^T = the Gramian, for a solver that takes the Jacobian but uses only its Gramian."""
    values, vectors = torch.linalg.eigh(gramian.double())
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root.to(gramian)


def shortest(gramian: Tensor) -> Tensor:
    """The weights w `[K]` of the shortest convex combination: min w^T G w with w >= 0 and sum w = 1.

    If u >= 0 minimises u^T G u + (sum u - 1)^2, then w = u / sum u: for u = s w the best s leaves n / (1 + n) with
    n = w^T G w, which grows with n. That is a problem of nonnegative least squares, solved by an active set.
    """
    from scipy.optimize import nnls

    scale = gramian.diag().max().double()
    if not scale > 0:  # all rows are zero, and any weights will do
        return torch.full_like(gramian[0], 1 / len(gramian))
    root = _root(gramian.double() / scale).cpu()
    rows = torch.cat([root.T, root.new_ones(1, len(root))])
    u, _ = nnls(rows.numpy(), rows.new_zeros(len(rows)).index_fill_(0, torch.tensor([len(root)]), 1).numpy())
    return torch.as_tensor(u / u.sum()).to(gramian)


def leaves(loss: Tensor) -> list[Tensor]:
    """The parameters that a loss depends on."""
    return [node.variable for node in _nodes(loss) if hasattr(node, "variable")]


def frontier(loss: Tensor, shared: Sequence[Tensor]) -> list[GradientEdge]:
    """The edges of the graph from what shared parameters alone compute to the task-specific parts.

    Raises:
        ValueError: if no task has a part of its own.
    """
    ours, pure = set(shared), dict[Node, bool]()
    nodes = _nodes(loss)
    for node in nodes:  # in topological order
        before = [pure[other] for other, _ in node.next_functions if other is not None]
        pure[node] = node.variable in ours if hasattr(node, "variable") else bool(before) and all(before)
    if pure[nodes[-1]]:
        raise ValueError(
            'expected parameters of each task\'s own beside the shared ones, got none; use level="parameters"'
        )
    met = {(n, i): None for node in nodes if not pure[node] for n, i in node.next_functions if n and pure[n]}
    return [GradientEdge(node, number) for node, number in met]


def _nodes(loss: Tensor) -> list[Node]:
    """The nodes of a loss's graph in topological order: each after all that it depends on."""
    found: dict[Node, None] = {}
    todo: list[tuple[Node, bool]] = [(loss.grad_fn, False)] if loss.grad_fn else []
    seen: set[Node] = set()
    while todo:
        node, done = todo.pop()
        if done:
            found[node] = None
        elif node not in seen:
            seen.add(node)
            todo.append((node, True))
            todo += [(other, False) for other, _ in node.next_functions if other is not None]
    return list(found)


@contextmanager
def _substituted(edges: Sequence[GradientEdge], gradients: Sequence[Tensor]) -> Iterator[None]:
    """Inside, backward passes continue from these edges with these gradients instead of their own."""
    by_node: dict[Node, dict[int, Tensor]] = {}
    for edge, gradient in zip(edges, gradients, strict=True):
        by_node.setdefault(edge.node, {})[edge.output_nr] = gradient

    def put(mine: dict[int, Tensor], arrived: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(mine.get(number, gradient) for number, gradient in enumerate(arrived))

    handles = [node.register_prehook(partial(put, mine)) for node, mine in by_node.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
