"""Matching networks: attention over the support by cosine. phi is the embedded support and its labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.metric import MetricLearner
from metabox.nn.backbones import MakeBackbone
from metabox.nn.metric import cosines, exact
from metabox.ranges import Count, Positive
from metabox.targets import TaskSpec


class MatchingNet(MetricLearner):
    """Matching network (Vinyals et al. 2016, "Matching Networks for One Shot Learning"), without full context.

    P(y | x, S) = sum_i a(x, x_i) y_i (equation 1), where a(x, x_i) is the softmax over the support of the cosines
    c(f(x), g(x_i)) (section 2.1.1). Here f = g, the backbone. The predicted parameters are log P, up to a constant.

    Deviations: the cosines are multiplied by `sharpness` before the softmax, by default a learned factor. With the
    paper's factor of 1 the probability of a class in a 5-way 1-shot task is at most e / (e + 4 / e) = 0.65, even for a
    perfect match. A class without support, whose probability would be 0, counts as one example with a cosine of -1. A
    descriptor gates the features (`Gate`), since a shift would partly cancel; the paper has none.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        sharpness: factor of the cosines, 1 in the paper; None learns it, from 10 on.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            ("keep with labels", r"\task = \{(\known_n, y_n)\}_{n=1}^N"),
        ),
        predict=(
            (
                "compare by cosine",
                r"a_n = \softmax_n\big(s \cos(\known, \known_n)\big), \quad (\known_n, y_n) \in \task",
            ),
            ("sum by class", r"p(y = c \mid x, \task) = \sum_{n \in \of{c}} a_n"),
        ),
        cost=("N", "M N"),
    )
    decayed = ()

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        sharpness: Positive | None = None,
    ) -> None:
        super().__init__(spec, backbone)
        self.sharpness = sharpness
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0))) if sharpness is None else None

    def represent(self, h: Tensor, member: Tensor, mask: Tensor) -> Phi:
        """`features [T, N, D]`, which are g(x_i), and `member [T, N, C]`, which are y_i (zeros for padding)."""
        return {"features": self.g(h, mask), "member": member}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        cosine = cosines(self.f(self.embed(x, phi), phi), phi["features"])
        with torch.autocast(x.device.type, enabled=False):
            member = phi["member"].to(cosine.dtype)
            sharpness = cosine.new_tensor(self.sharpness) if self.log_sharpness is None else self.log_sharpness.exp()
            attention = (sharpness * (cosine - 1)).exp()  # up to the normalisation, which is the same for all classes
            unseen = (member.sum(1) == 0)[:, None]
            return torch.where(unseen, (-2 * sharpness).exp(), attention @ member).clamp(min=SMALLEST).log()

    def g(self, h: Tensor, mask: Tensor) -> Tensor:
        """Embed the support: features g' `[T, N, D]`, mask `[T, N]`, to g `[T, N, D]`."""
        return h

    def f(self, h: Tensor, phi: Phi) -> Tensor:
        """Embed queries: features f' `[T, M, D]` to f `[T, M, D]`."""
        return h


class FullContextMatchingNet(MatchingNet):
    """Matching network with full context embeddings (Vinyals et al. 2016, sections 2.1.2, A.1 and A.2).

    Each support example is embedded in the context of the whole support: g(x_i, S) is g'(x_i) + the outputs at step i
    of two LSTMs that read the support forwards and backwards (A.2), so that its order matters. A query is embedded by
    `n_steps` steps of an LSTM, each of which attends to the support first: equations 3 to 6.

    Deviations: those of `MatchingNet`. The paper gives neither the number of steps nor the initial h and c: here they
    are zeros, so that the first read-out is the mean of the support.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        sharpness: factor of the cosines, 1 in the paper; None learns it, from 10 on.
        n_steps: K, the processing steps of a query.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            (
                "read both ways",
                r"g_n = \known_n + \overrightarrow{\net{LSTM}}(\known_{1:n}) + "
                r"\overleftarrow{\net{LSTM}}(\known_{N:n})",
            ),
            ("keep with labels", r"\task = \{(g_n, y_n)\}_{n=1}^N"),
        ),
        predict=(
            (
                "attend K times",
                r"h_k = \net{LSTM}\big(\known, [h_{k-1}, r_{k-1}]\big) + \known, \quad r_k = \attend(h_k; g, "
                r"g), \quad g \in \task",
            ),
            ("compare, sum", r"p(y = c \mid x, \task) = \sum_{n \in \of{c}} \softmax_n\big(s \cos(h_K, g_n)\big)"),
        ),
        cost=("N", "M N"),
        kin={"MatchingNet": "support and query are embedded in the context of the whole support"},
        parallel=False,
    )
    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        sharpness: Positive | None = None,
        n_steps: Count = 5,
    ) -> None:
        super().__init__(spec, backbone=backbone, sharpness=sharpness)
        width, self.n_steps = self.embed.out_features, n_steps
        self.forwards = nn.LSTM(width, width, batch_first=True)
        self.backwards = nn.LSTM(width, width, batch_first=True)
        # In equation 3 the hidden state is [h, r]; here r joins the input, which is the same for a linear map.
        self.cell = nn.LSTMCell(2 * width, width)

    def g(self, h: Tensor, mask: Tensor) -> Tensor:
        place = torch.arange(h.shape[1], device=h.device).expand(mask.shape)
        # Real examples first, in reading order: padding is read after them and cannot influence them.
        forwards = _read(self.forwards, h, torch.where(mask, place, h.shape[1]).argsort(dim=1))
        backwards = _read(self.backwards, h, torch.where(mask, -place, h.shape[1]).argsort(dim=1))
        return forwards + backwards + h

    def f(self, h: Tensor, phi: Phi) -> Tensor:
        support, real = exact(phi["features"]), phi["member"].any(-1)[:, None]
        hidden = cell = torch.zeros_like(h)
        for _ in range(self.n_steps):
            with torch.autocast(h.device.type, enabled=False):
                scores = exact(hidden) @ support.transpose(1, 2)
                scores = scores.masked_fill(~real, torch.finfo(scores.dtype).min)
                read = scores.softmax(-1) @ support  # equations 5 and 6
            out, cell = self.cell(  # equation 3
                torch.cat([h, read.to(h.dtype)], dim=-1).flatten(0, 1), (hidden.flatten(0, 1), cell.flatten(0, 1))
            )
            hidden, cell = out.view_as(h) + h, cell.view_as(h)  # equation 4
        return hidden


def _read(lstm: nn.LSTM, h: Tensor, order: Tensor) -> Tensor:
    """The LSTM's outputs for h `[T, N, D]`, read in the given order `[T, N]`."""
    if not h.numel():
        return h
    where = order[..., None].expand_as(h)
    out = lstm(h.gather(1, where))[0]
    return torch.zeros_like(out).scatter(1, where, out)


SMALLEST = 1e-30
