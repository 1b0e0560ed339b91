"""What the tests of neural processes share: the learners, and their parts in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from metabox.episodes import Episodes, Examples
from metabox.learners.anp import ANP
from metabox.learners.neural_process import NP, NeuralProcess
from metabox.nn.attention import CrossAttention
from metabox.nn.mlp import Perceptron
from metabox.targets import TaskSpec
from metabox.testing import SPECS, make_episodes

CLASSES, REALS, BINARY = (SPECS[name] for name in ("classes of vectors", "reals", "binary labels"))
KINDS = [CLASSES, REALS, BINARY, SPECS["classes with a descriptor"], SPECS["reals with a descriptor"]]
Make = Callable[[TaskSpec, int], NeuralProcess]
MAKERS: dict[str, Make] = {
    "NP": NP,
    "ANP": ANP,
    "ANP with self-attention": partial(ANP, self_attention=2),
    "ANP uniform": partial(ANP, attention="uniform"),
    "ANP laplace": partial(ANP, attention="laplace"),
    "ANP dot": partial(ANP, attention="dot", self_attention=1),
}


def ragged(spec: TaskSpec) -> Episodes:
    """Episodes whose supports have 6, 4 and 0 real examples, with padding in between."""
    episodes = make_episodes(spec)
    s = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    q = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, False]])
    return replace(episodes, support=replace(episodes.support, mask=s), query=replace(episodes.query, mask=q))


def plain_mlp(perceptron: Perceptron, x: Tensor) -> Tensor:
    for layer in perceptron:
        x = layer(x)
    return x


def plain_attention(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """The softmax of q.k / sqrt(d), and what it weighs."""
    weights = torch.stack([query @ key / math.sqrt(len(query)) for key in keys]).softmax(0)
    return sum((w * value for w, value in zip(weights, values, strict=True)), torch.zeros_like(values[0]))


def plain_heads(query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    size = len(query) // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    return torch.cat([plain_attention(query[p], [k[p] for k in keys], [v[p] for v in values]) for p in parts])


def plain_self_attention(layer: Any, tokens: list[Tensor]) -> list[Tensor]:
    normed = [layer.norms[0](token) for token in tokens]
    keys, values = ([layer.key_value(n).chunk(2)[i] for n in normed] for i in (0, 1))
    seen = [plain_heads(layer.query(n), keys, values, layer.heads) for n in normed]
    tokens = [token + layer.out(s) for token, s in zip(tokens, seen, strict=True)]
    return [token + plain_mlp(layer.feed_forward, layer.norms[1](token)) for token in tokens]


def plain_encoder(encoder: Any, pairs: list[Tensor]) -> list[Tensor]:
    codes = [plain_mlp(encoder.perceptron, pair) for pair in pairs]
    for layer in encoder.layers if codes else []:
        codes = plain_self_attention(layer, codes)
    return codes


def plain_cross_attention(attention: CrossAttention, x: Tensor, inputs: list[Tensor], values: list[Tensor]) -> Tensor:
    """The four forms of Kim et al. 2019."""
    if not values:
        return torch.zeros(128)
    if attention.kind == "uniform":
        return torch.stack(values).mean(0)
    query, keys = plain_mlp(attention.represent, x), [plain_mlp(attention.represent, i) for i in inputs]
    if attention.kind == "laplace":
        weights = torch.stack([-(query - key).abs().sum() for key in keys]).exp()
        return sum((w * v for w, v in zip(weights / weights.sum(), values, strict=True)), torch.zeros(128))
    if attention.kind == "dot":
        return plain_attention(query, keys, values)
    keys, values = [attention.key(key) for key in keys], [attention.value(value) for value in values]
    return attention.out(plain_heads(attention.query(query), keys, values, attention.heads))


class Plain:
    """A neural process on one task, one example at a time."""

    def __init__(self, learner: NeuralProcess, episodes: Episodes, t: int) -> None:
        self.learner, self.spec = learner, learner.spec
        self.z = [] if episodes.descriptor is None else [episodes.descriptor[t]]
        seen = self.real(episodes.support, t)
        self.inputs, self.labels = [self.features(x) for x, _ in seen], [y for _, y in seen]
        self.codes: list[Tensor] = [torch.empty(0)] * len(seen)
        for members in self.sets(seen):
            codes = plain_encoder(learner.encoder, [self.pair(*seen[i]) for i in members])
            for i, code in zip(members, codes, strict=True):
                self.codes[i] = code

    def real(self, examples: Examples, t: int) -> list[tuple[Tensor, Tensor]]:
        return [(x, y) for x, y, m in zip(examples.x[t], examples.y[t], examples.mask[t], strict=True) if m]

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.learner.embed.backbone(x), *self.z])

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return self.features(x) if self.spec.target.n_classes is not None else torch.cat([self.features(x), y])

    def sets(self, seen: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
        """The examples of each class that has some, or all examples."""
        if self.spec.target.n_classes is None:
            return [list(range(len(seen)))]
        by_class = [[i for i, (_, y) in enumerate(seen) if int(y) == c] for c in range(self.spec.target.size)]
        return [members for members in by_class if members]

    def posterior(self, seen: list[tuple[Tensor, Tensor]]) -> Normal:
        """s = the mean of s_i; a ReLU layer; the mean over classes, where there are several; a linear layer."""
        latent, hidden = self.learner.latent, []
        for members in self.sets(seen) if seen else []:
            s_i = plain_encoder(latent.encoder, [self.pair(*seen[i]) for i in members])
            hidden.append(torch.relu(latent.penultimate(torch.stack(s_i).mean(0))))
        pooled = torch.stack(hidden).mean(0) if hidden else torch.zeros(latent.penultimate.out_features)
        mean, raw = latent.head(pooled).chunk(2)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw))

    def read(self, h: Tensor, members: list[int]) -> Tensor:
        inputs, codes = [self.inputs[i] for i in members], [self.codes[i] for i in members]
        if isinstance(self.learner, ANP):
            return plain_cross_attention(self.learner.attention, h, inputs, codes)
        return torch.stack(codes).mean(0) if codes else torch.zeros(128)

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        h, everything = self.features(x), list(range(len(self.labels)))
        if self.spec.target.n_classes is None:
            return plain_mlp(self.learner.decoder, torch.cat([h, self.read(h, everything), z]))
        scores = []
        for c in range(self.spec.target.size):
            mine = [i for i in everything if int(self.labels[i]) == c]
            parts = [h, self.read(h, mine), self.read(h, everything), z]
            scores.append(plain_mlp(self.learner.decoder, torch.cat(parts))[0])
        return torch.stack(scores)
