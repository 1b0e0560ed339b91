"""SNAIL: causal convolutions and attention over the support. phi is each layer's past, read once for all queries."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.causal import CausalAttention, DenseBlock, Past, real_first
from metabox.nn.embedding import Embedding
from metabox.ranges import Count, TwoOrMore
from metabox.targets import TaskSpec


class SNAIL(Learner):
    """Simple neural attentive learner (Mishra et al. 2018, "A Simple Neural Attentive Meta-Learner").

    The sequence is (x_1, y_1), ..., (x_N, y_N), (x, 0): the support, then one query. It passes through
    AttentionBlock(64, 32), TCBlock(T, 128), AttentionBlock(256, 128), TCBlock(T, 128), AttentionBlock(512, 256) and a
    linear layer at each position. TCBlock(T, D) is DenseBlock(2^i, D) for i = 1 ... ceil(log2 T), as printed in section
    3.1, so that the convolutions reach even distances (2, 4, 8, ...); attention reaches all.

    No support example sees the query, so the support is read once. A query needs from each dense block the input one
    dilation earlier, and from each attention block the keys and values; all queries of a task are answered from these
    in one pass, each as if it alone followed the support.

    Deviations: the paper builds the network for one number T = NK + 1 of examples; here `horizon` sets only the number
    of dense blocks, and any number of examples can be read. A padded example takes no position. Keys have no bias,
    which would have no effect.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the linear layer after the backbone, 64 for Omniglot in the paper; None for no such layer, as
            after the 384 features for mini-ImageNet.
        horizon: T, the length of sequence that the convolutions span; 26 is 5 ways, 5 shots and a query.
        filters: D of the temporal convolutions.
        attention: key and value size of each attention block; a TCBlock stands between two of them.
    """

    method = Method(
        adapt=(
            ("pairs as a sequence", r"u_n = [\known_n, y_n]"),
            (
                "dilated convolutions",
                r"u_n \leftarrow \big[u_n, \tanh(W u_{n, n-d}) \had \sigma(W' u_{n, n-d})\big], \quad d = 2, "
                r"4, 8, \ldots",
            ),
            ("causal attention", r"u_n \leftarrow \big[u_n, \attend(Q u_n; K u_{1:n}, V u_{1:n})\big]"),
            ("keep what is read", r"\task = \{\text{last inputs of convolutions}, K, V\}"),
        ),
        predict=(
            ("one further position", r"u = \net{blocks}\big([\known, 0]; \task\big)"),
            ("parameters", r"p(y \mid x, \task) = p(y; W u)"),
        ),
        cost=("N^2", "M N"),
        kin={
            "GPICL": "convolutions over time stand between few layers of attention, and no label is late",
            "LSTM": "convolutions and attention over all steps, in place of a state",
        },
        exports=False,
    )
    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count | None = 64,
        horizon: TwoOrMore = 26,
        filters: Count = 128,
        attention: tuple[tuple[Count, Count], ...] = ((64, 32), (256, 128), (512, 256)),
    ) -> None:
        super().__init__(spec)
        if not attention:
            raise ValueError("expected attention with a block at least, got none; a block is its key and value size")
        self.embed = Embedding(spec, backbone, causal=True)
        features = self.embed.out_features
        self.project = nn.Identity() if width is None else nn.Linear(features, width)
        self.blocks = nn.ModuleList()
        size = (width or features) + spec.target.label_size
        for i, (key_size, value_size) in enumerate(attention):
            if i:
                for j in range(math.ceil(math.log2(horizon))):
                    self.blocks.append(DenseBlock(size, 2 ** (j + 1), filters))
                    size += filters
            self.blocks.append(CausalAttention(size, key_size, value_size))
            size += value_size
        self.readout = nn.Linear(size, spec.target.n_params)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: for block i `i.echo [T, 1, 2 * filters]` or `i.keys`, `i.values [T, N, ...]`; and `visible [T, 1, N]`.

        And the task statistics.
        """
        h, phi = self.embed.adapt(support, descriptor)
        order = real_first(support.mask)
        tokens = self._token(h, self.spec.target.encode(support.y, support.mask)).take_along_dim(order, dim=1)
        phi["visible"] = support.mask.take_along_dim(order[..., 0], dim=1)[:, None]
        position = support.mask.sum(1)[:, None, None]  # of every query: after the support
        for i, (_, past) in enumerate(self._read(tokens)):
            if "echo" in past:
                past = {"echo": past["echo"].take_along_dim(position, dim=1)}
            phi |= {f"{i}.{name}": part for name, part in past.items()}
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        tokens = self._token(self.embed(x, phi))
        for i, block in enumerate(self.blocks):
            past = {name: phi[f"{i}.{name}"] for name in ("echo", "keys", "values") if f"{i}.{name}" in phi}
            tokens = block(tokens, past, phi["visible"])
        params: Tensor = self.readout(tokens)
        return params

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        h, _ = self.embed.adapt(examples, descriptor)
        order = real_first(examples.mask)
        tokens = self._token(h, self.spec.target.encode(examples.y, examples.mask)).take_along_dim(order, dim=1)
        queries = self._token(h).take_along_dim(order, dim=1)
        for block, past in self._read(tokens):
            queries = block(queries, past, _before(queries))
        params: Tensor = self.readout(queries)
        return params.take_along_dim(order.argsort(dim=1), dim=1)

    def _read(self, tokens: Tensor) -> Iterator[tuple[nn.Module, Past]]:
        """Each block, with its past from the labelled tokens `[T, N, D]`."""
        for i, block in enumerate(self.blocks):
            past: Past = block.remember(tokens)  # type: ignore[operator]  # a ModuleList has no type for its items
            yield block, past
            if i + 1 < len(self.blocks):  # the last block's outputs for the support are not used
                tokens = block(tokens, past, _before(tokens))

    def _token(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features `[T, N, F]` with their labels, or with zeros: `[T, N, width + L]`."""
        h = self.project(h)
        labels = h.new_zeros(*h.shape[:2], self.spec.target.label_size) if labels is None else labels.to(h.dtype)
        return torch.cat([h, labels], dim=-1)


def _before(tokens: Tensor) -> Tensor:
    """Which positions come before which: bool `[1, N, N]`."""
    n = tokens.shape[1]
    return torch.ones(1, n, n, dtype=torch.bool, device=tokens.device).tril(-1)
