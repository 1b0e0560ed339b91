"""Interleaved: a GPT-2 over x_1, y_1, x_2, y_2, ... phi is the per-layer keys and values of the support."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.causal import real_first
from metabox.nn.embedding import Embedding
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Interleaved(Learner):
    """The in-context learner of function classes (Garg et al. 2022, "What can transformers learn in-context?").

    Inputs and targets are alternating tokens: x_1, y_1, x_2, y_2, ... One linear map embeds both, each padded with
    zeros to the wider one's size. A causal transformer predicts y_i at the token of x_i: train it with `StreamLoss`,
    the loss at every prefix (section 2 of the paper). The transformer is GPT-2 as in the authors' code
    (github.com/dtsip/in-context-learning) without dropout, with its table of learned positions. The authors train 12
    layers of 8 heads and width 256; the defaults here are those of their "tiny" configuration.

    Deviations: inputs may pass through a backbone (`Flatten` for the paper's plain vectors). The likelihood has a
    learned standard deviation where the paper has the squared error. A padded example takes no position.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads of a layer, a divisor of `width`.
        points: examples in the longest sequence, the query included; the table of positions has twice as many rows.

    Raises:
        ValueError: if `points` is below 1; in `adapt` and `stream` if there are more examples than positions.
    """

    method = Method(
        adapt=(
            (
                "alternate tokens",
                r"(t_1^0, t_2^0, t_3^0, \ldots) = (W \known_1, W y_1, W \known_2, \ldots) + \mathrm{pos}",
            ),
            ("causal attention", r"t_j^{l+1} = \net{layer}\big(t_j^l; t_{1:j}^l\big)"),
            ("keep keys and values", r"\task = \{K^l, V^l\}_l"),
        ),
        predict=(
            (
                "one further step",
                r"t^{l+1} = \net{layer}\big(t^l; [K^l, t^l], [V^l, t^l]\big), \quad K^l, V^l \in \task, \quad "
                r"t^0 = W \known + \mathrm{pos}_{2N+1}",
            ),
            ("parameters", r"p(y \mid x, \task) = p\big(y; W' t^L\big)"),
        ),
        cost=("N^2", "M N"),
        kin={"GPICL": "inputs and labels are tokens of their own, and no label is late"},
        exports=False,
    )
    decayed = ()
    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 64,
        depth: Count = 3,
        heads: Count = 2,
        points: Count = 101,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone, causal=True)
        self.read_in = nn.Linear(max(self.embed.out_features, spec.target.label_size), width)
        self.positions = nn.Parameter(torch.empty(2 * points, width).normal_(std=0.02))
        self.transformer = Transformer([_gpt2_layer(width, heads, depth) for _ in range(depth)], width)
        self.read_out = nn.Linear(width, spec.target.n_params)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, 2N, D/heads]` of layer i, `mask [T, 2N]`; the task statistics."""
        self._check_length(support.mask.shape[1] + 1)
        return self._read(support, descriptor)[0]

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        mask = phi["mask"]
        tokens = self._read_in(self.embed(x, phi)) + self.positions[mask.sum(1)][:, None]
        params: Tensor = self.read_out(self.transformer.read(phi, tokens, mask[:, None], itself=True))
        return params

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        self._check_length(examples.mask.shape[1])
        return self._read(examples, descriptor)[1]

    def _read(self, sequence: Examples, descriptor: Tensor | None) -> tuple[Phi, Tensor]:
        """phi after the sequence, and the predictions at its steps `[T, N, P]`, in one causal pass."""
        h, phi = self.embed.adapt(sequence, descriptor)
        order = real_first(sequence.mask)
        y = self.spec.target.encode(sequence.y, sequence.mask).to(h.dtype)
        pairs = torch.stack([self._read_in(part.take_along_dim(order, dim=1)) for part in (h, y)], dim=2)
        tokens = pairs.flatten(1, 2)  # [T, 2N, D]
        n = tokens.shape[1]
        tokens = tokens + self.positions[:n]
        phi["mask"] = sequence.mask.take_along_dim(order[..., 0], dim=1).repeat_interleave(2, dim=1)
        causal = torch.ones(1, n, n, dtype=torch.bool, device=h.device).tril()
        written, read = self.transformer.write_and_read(tokens, causal)
        return phi | written, self.read_out(read[:, ::2]).take_along_dim(order.argsort(dim=1), dim=1)

    def _read_in(self, part: Tensor) -> Tensor:
        """Inputs or targets `[T, N, size]` to tokens `[T, N, D]`."""
        tokens: Tensor = self.read_in(F.pad(part, (0, self.read_in.in_features - part.shape[-1])))
        return tokens

    def _check_length(self, points: int) -> None:
        if 2 * points > len(self.positions):
            raise ValueError(
                f"expected at most {len(self.positions) // 2} examples, the query included, got {points}; "
                "build the learner with more `points`"
            )


def _gpt2_layer(width: int, heads: int, depth: int) -> TransformerLayer:
    """A layer of GPT-2: GELU by its tanh formula, small initial weights, smaller at the ends of residual branches."""
    layer = TransformerLayer(width, heads, 4 * width)
    layer.feed_forward[1] = nn.GELU(approximate="tanh")
    ends = (layer.out, layer.feed_forward[2])
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if module in ends else 0.02)
            nn.init.zeros_(module.bias)
    return layer
