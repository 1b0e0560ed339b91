"""How learners that compare a query with the support combine labels and inputs: by class, or as one vector.

A class is defined by its support, not by a vector. Its examples form a group, which is pooled or attended to
separately, and each (query, class) pair gets a score; any way works, and renaming the classes renames the predictions.
Other targets are vectors that are concatenated to x, and the whole support is one group.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.nn.sets import membership
from metabox.targets import Target


class Pairing(nn.Module):
    """Groups of the support, and scores of a query with each; `pairing(target)` makes the right one.

    label_size: width of a label in a pair
    outputs: natural parameters of one (query, group) pair
    codes: number of codes in a score: the group's, and that of the whole support if it is not the group
    bias: whether a last bias, which all pairs share, has an effect
    """

    label_size: int
    outputs: int
    codes: int
    bias: bool

    def pairs(self, h: Tensor, examples: Examples) -> Tensor:
        """Features `[T, N, D]` with their labels: `[T, N, D + label_size]`."""
        raise NotImplementedError

    def groups(self, examples: Examples) -> Tensor:
        """Which group each example is in: floats `[T, N, G]`."""
        raise NotImplementedError

    def readable(self, examples: Examples) -> Tensor:
        """The groups, and last the whole support if it is not one of them: `[T, N, G or G + 1]`."""
        raise NotImplementedError

    def score(self, decoder: Callable[..., Tensor], h: Tensor, codes: Tensor, *more: Tensor) -> Tensor:
        """Queries `[..., M, D]` and codes `[..., 1 or M, G or G + 1, R]` of `readable` groups -> `[..., M, P]`.

        `more` are further inputs of the decoder, `[..., 1 or M, R']`.
        """
        raise NotImplementedError

    def sources(self, codes: Tensor, code: Tensor) -> tuple[Tensor, ...]:
        """The inputs of a weight generator, as parts that broadcast to `[T, G, ...]`.

        Each class has its own weights, from its code in `codes [T, G, R]` and the task code `code [T, Z]`; other
        targets have one set of weights, from the task code only.
        """
        raise NotImplementedError


class ByClass(Pairing):
    """Each class is a group: `[T, M, C]` scores."""

    label_size, outputs, codes, bias = 0, 1, 2, False

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def pairs(self, h: Tensor, examples: Examples) -> Tensor:
        return h

    def groups(self, examples: Examples) -> Tensor:
        return membership(examples.y, examples.mask, self.n_classes)

    def readable(self, examples: Examples) -> Tensor:
        return torch.cat([self.groups(examples), examples.mask[..., None].float()], dim=-1)

    def score(self, decoder: Callable[..., Tensor], h: Tensor, codes: Tensor, *more: Tensor) -> Tensor:
        each = [part[..., None, :] for part in more]
        return decoder(h[..., None, :], codes[..., :-1, :], codes[..., -1:, :], *each).squeeze(-1)

    def sources(self, codes: Tensor, code: Tensor) -> tuple[Tensor, ...]:
        return codes, code[:, None]


class ByVector(Pairing):
    """The whole support is the only group, and a label is a vector concatenated to x."""

    codes, bias = 1, True

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target
        self.label_size, self.outputs = target.label_size, target.n_params

    def pairs(self, h: Tensor, examples: Examples) -> Tensor:
        return torch.cat([h, self.target.encode(examples.y, examples.mask).to(h.dtype)], dim=-1)

    def groups(self, examples: Examples) -> Tensor:
        return examples.mask[..., None].float()

    readable = groups

    def score(self, decoder: Callable[..., Tensor], h: Tensor, codes: Tensor, *more: Tensor) -> Tensor:
        return decoder(h, codes[..., 0, :], *more)

    def sources(self, codes: Tensor, code: Tensor) -> tuple[Tensor, ...]:
        return (code[:, None],)


def pairing(target: Target) -> Pairing:
    """The `Pairing` for this kind of target."""
    return ByVector(target) if target.n_classes is None else ByClass(target.n_classes)
