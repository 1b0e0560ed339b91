"""Gradient surgery: steps from the gradients of every task, not from their sum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from metabox.weighting.base import Backward, Weighting, some

Method = Literal["pcgrad", "mgda", "cagrad", "nash", "imtl", "upgrad"]
METHODS: tuple[Method, ...] = get_args(Method)


class Surgery(Weighting):
    """Gradient surgery on the shared parameters; the others get the gradient of the plain sum. Solved by torchjd.

    The rows of the Jacobian are the gradients of `K s_k L_k` over the K tasks of the batch, so those of L_k where the
    shares are even. Where all rows are equal the update is that row, as for the plain sum; but (1 + c) times it for
    CAGrad, and of length at most 1 for Nash-MTL.

    - "pcgrad": Yu et al. 2020, algorithm 1; the mean of the projected gradients, where the paper has their sum.
    - "mgda": the shortest convex combination (Désidéri 2012; Sener & Koltun 2018, algorithm 2).
    - "cagrad": Liu et al. 2021, algorithm 1.
    - "nash": Nash-MTL, Navon et al. 2022, algorithm 1.
    - "imtl": IMTL-G, Liu et al. 2021 (Towards impartial multi-task learning), equation 3.
    - "upgrad": Quinton & Rey 2024.

    Args:
        n_losses: K.
        method: one of these.
        c: of CAGrad, how far the update may be from the mean gradient; 0.5 on the paper's toy problem.
        every: find the weights of the rows anew in every so-manieth batch, which saves time (Navon et al. 2022,
            section 5); each backward pass costs as much as the plain sum's, and a batch with new weights has K.

    Raises:
        ImportError: where torchjd or one of its solvers is missing.
    """

    def __init__(self, n_losses: int, method: Method = "pcgrad", c: float = 0.5, every: int = 1) -> None:
        super().__init__(n_losses)
        if method not in METHODS:
            raise ValueError(f"expected method among {METHODS}, got {method!r}")
        if every < 1 or c < 0:
            raise ValueError(f"expected every of at least 1 and c of at least 0, got {every} and {c}")
        self.method, self.c, self.every = method, c, every
        self._solvers = {n_losses: self._solver(n_losses)}  # here, so that what is missing is known at once
        self.register_buffer("relative", torch.ones(n_losses))  # weights of the rows, times their number
        self.register_buffer("alpha", torch.ones(n_losses, dtype=torch.float64))  # where Nash-MTL goes on from
        self.register_buffer("batches", torch.tensor(0))

    def backward(self, losses: Tensor, share: Tensor, shared: Sequence[nn.Parameter], backward: Backward) -> None:
        self.check(losses, share)
        shared = some(shared)
        here = (share > 0).nonzero().flatten()
        plain = (share[here] * losses[here]).sum()
        if len(here) < 2:
            return backward(plain)
        rows = len(here) * share[here] * losses[here]
        gradients = self._gradients(rows, here, shared)
        ours = set(shared)
        rest = [parameter for parameter in leaves(plain) if parameter not in ours]
        gradients += torch.autograd.grad(plain, rest) if rest else ()
        # A linear loss with these gradients: the engine's own backward lays them down, as it does any others.
        return backward(torch.stack([(p * g).sum() for p, g in zip([*shared, *rest], gradients, strict=True)]).sum())

    def _gradients(self, rows: Tensor, here: Tensor, shared: list[nn.Parameter]) -> tuple[Tensor, ...]:
        from torchjd.autojac import jac

        relative, batches = self.get_buffer("relative"), self.get_buffer("batches")
        batches += 1
        if (int(batches) - 1) % self.every:
            mixed = (relative[here] * rows).mean()
            return torch.autograd.grad(mixed, shared, retain_graph=True, materialize_grads=True)
        # One row after the other: on a CPU that is faster than all in one vmap, and every layer can do it.
        parts = jac(rows, shared, retain_graph=True, parallel_chunk_size=1)
        jacobian = torch.cat([part.flatten(1) for part in parts], 1)
        if jacobian.isfinite().all():  # else the loop will skip this step
            relative[here] = len(here) * self._weights(jacobian, here)
        flat = relative[here] / len(here) @ jacobian
        pieces = flat.split([parameter.numel() for parameter in shared])
        return tuple(piece.view_as(parameter) for piece, parameter in zip(pieces, shared, strict=True))

    def _weights(self, jacobian: Tensor, here: Tensor) -> Tensor:
        n, alpha = len(here), self.get_buffer("alpha")
        solver = self._solvers[n] = self._solvers.get(n) or self._solver(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cvxpy's, on how its problem could be posed better
            if self.method != "nash":
                weights = solver(jacobian @ jacobian.T)
                return weights / n if self.method == "pcgrad" else weights
            solver.prvs_alpha = alpha[here].cpu().numpy()
            weights = solver(jacobian)
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
                f"surgery by {self.method} needs torchjd and its solvers ({error}): pip install metabox[multitask]"
            ) from error


def leaves(loss: Tensor) -> list[Tensor]:
    """The parameters that a loss depends on, found along its graph."""
    found: list[Tensor] = []
    todo: list[Any] = [loss.grad_fn]
    seen: set[Any] = {None}
    while todo:
        if (node := todo.pop()) not in seen:
            seen.add(node)
            found += [node.variable] if hasattr(node, "variable") else []
            todo += [following for following, _ in node.next_functions]
    return found
