"""How the tokens of an in-context transformer encode labels and predictions: by class, or as one vector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.nn.sets import class_mean, membership
from metabox.targets import Target


class LabelTokens(nn.Module, ABC):
    """Labels to tokens, and tokens to predictions; `label_tokens(target, width)` makes the right one."""

    @abstractmethod
    def support(self, x: Tensor, support: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens `[T, N, D]` of inputs `[T, N, D]` and their labels, and entries for phi."""

    @abstractmethod
    def query(self, x: Tensor, phi: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Tokens `[T, M, D]` of inputs without a label, and an initial guess for `read`."""

    @abstractmethod
    def read(self, tokens: Tensor, guess: Tensor | None, phi: dict[str, Tensor]) -> Tensor:
        """Natural parameters `[T, M, P]` from the transformer's outputs `[T, M, D]`."""


class VectorTokens(LabelTokens):
    """A linear map embeds labels, and another reads out predictions.

    Args:
        target: the kind of label.
        width: D.
    """

    def __init__(self, target: Target, width: int) -> None:
        super().__init__()
        self.target = target
        self.embed_y = nn.Linear(target.label_size, width)
        self.readout = nn.Linear(width, target.n_params)

    def support(self, x: Tensor, support: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        return x + self.embed_y(self.target.encode(support.y, support.mask).to(x.dtype)), {}

    def query(self, x: Tensor, phi: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        return x, None

    def read(self, tokens: Tensor, guess: Tensor | None, phi: dict[str, Tensor]) -> Tensor:
        params: Tensor = self.readout(tokens)
        return params


class NearbyTokens(VectorTokens):
    """The same, and a query starts from a guess too: the embeddings of the labels of the support that is most like it.

    The guess is attention by cosine over the support, as in matching networks (Vinyals et al. 2016, equation 1).

    Args:
        target: the kind of label.
        width: D.
    """

    decayed = ()

    def __init__(self, target: Target, width: int) -> None:
        super().__init__(target, width)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def support(self, x: Tensor, support: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        codes = self.embed_y(self.target.encode(support.y, support.mask).to(x.dtype))
        return x + codes, {"features": F.normalize(x.float(), dim=-1), "codes": codes}

    def query(self, x: Tensor, phi: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):  # bf16 would blur the cosines
            cosine = F.normalize(x.float(), dim=-1) @ phi["features"].transpose(1, 2)  # [T, M, N]
            weights = (self.log_sharpness.exp() * (cosine - 1)).exp() * phi["mask"][:, None]
            weights = weights / weights.sum(-1, keepdim=True).clamp(min=SMALLEST)
        return x + weights.to(x.dtype) @ phi["codes"], None


class ClassTokens(LabelTokens):
    """The embedding of a class is inferred from the task: a linear map of the mean of its support's tokens.

    A query starts from a guess, attention by cosine over the support as in matching networks (Vinyals et al. 2016,
    equation 1), and carries the guessed label's embedding; a correction is read out against the same embeddings.

    Args:
        n_classes: C.
        width: D.
    """

    decayed = ()

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.embed_y = nn.Linear(width, width)
        self.readout = nn.Linear(width, width)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def support(self, x: Tensor, support: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        member = membership(support.y, support.mask, self.n_classes)
        codes = F.layer_norm(self.embed_y(class_mean(x, member)), x.shape[-1:])
        tokens = x + member.to(codes.dtype) @ codes
        return tokens, {"features": F.normalize(x.float(), dim=-1), "member": member, "codes": codes}

    def query(self, x: Tensor, phi: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The guess is the log of the mean of exp(sharpness * (cosine - 1)) over a class's support: `[T, M, C]`."""
        with torch.autocast(x.device.type, enabled=False):  # bf16 would blur the cosines
            sharpness = self.log_sharpness.exp()
            cosine = F.normalize(x.float(), dim=-1) @ phi["features"].transpose(1, 2)  # [T, M, N]
            size = phi["member"].sum(1)[:, None]  # [T, 1, C]
            likeness = (sharpness * (cosine - 1)).exp() @ phi["member"] / size.clamp(min=1)
            probability = likeness / likeness.sum(-1, keepdim=True).clamp(min=SMALLEST)
            # A class without support has cosine -1, the least.
            guess = torch.where(size > 0, likeness, (-2 * sharpness).exp()).clamp(min=SMALLEST).log()
        return x + probability.to(x.dtype) @ phi["codes"], guess

    def read(self, tokens: Tensor, guess: Tensor | None, phi: dict[str, Tensor]) -> Tensor:
        correction: Tensor = self.readout(tokens) @ phi["codes"].transpose(1, 2) / math.sqrt(tokens.shape[-1])
        return correction if guess is None else guess + correction


def label_tokens(target: Target, width: int) -> LabelTokens:
    """The `LabelTokens` for this kind of target, with D = width."""
    return VectorTokens(target, width) if target.n_classes is None else ClassTokens(target.n_classes, width)


SMALLEST = 1e-30
