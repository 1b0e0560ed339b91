"""Transformer neural processes: one token per pair. phi is the per-layer keys and values of the support."""

from __future__ import annotations

import torch
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.mlp import Perceptron
from metabox.nn.transformer import Transformer, TransformerLayer
from metabox.ranges import Count
from metabox.targets import TaskSpec


class TNPD(Learner):
    """TNP-D, which predicts each query independently (Nguyen & Grover 2022, "Transformer Neural Processes", section 4).

    The tokens of a transformer without positions are the pairs (x_i, y_i) of the support and (x, 0) of the queries. All
    attend to the support only: a query sees neither other queries nor itself (as in the authors' code,
    github.com/tung-nd/TNP-pytorch, which the layers and their sizes follow too).

    Deviations: inputs pass through a backbone, which for vectors has two of the four layers that the paper has between
    a pair and its token. Layers normalise first, and once more before the readout: normalising last, as in the paper,
    took several times the steps in our tests, or a smaller learning rate. The standard deviation is that of the
    target, by default a softplus with a floor; theirs are `Reals(1, link="exp", min_scale=0)`, and for images
    `Reals(1, min_scale=0.05, factor=0.95)`. Attention over an empty support, which does not occur in the paper, gives
    zero. Classes, which the paper does not treat, are one-hot vectors: renaming them changes predictions.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads of a layer, a divisor of `width`.
        feed_forward: hidden units of a layer's feed-forward part and of the readout.
        embed_depth: linear layers between the pair and its token.
    """

    method = Method(
        adapt=(
            ("token of each pair", r"t_n^0 = \net{MLP}(\known_n, y_n)"),
            ("self-attention", r"t_n^{l+1} = \net{layer}\big(t_n^l; t_{1:N}^l\big)"),
            ("keep keys and values", r"\task = \{K^l, V^l\}_l"),
        ),
        predict=(
            (
                "attend in each layer",
                r"t^{l+1} = \net{layer}\big(t^l; K^l, V^l\big), \quad K^l, V^l \in \task, \quad t^0 = "
                r"\net{MLP}(\known, 0)",
            ),
            ("parameters", r"p(y \mid x, \task) = p\big(y; \net{MLP}(t^L)\big)"),
        ),
        cost=("N^2", "M N"),
        kin={"ACNP": "a query attends in every layer, in place of once"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 64,
        depth: Count = 6,
        heads: Count = 4,
        feed_forward: Count = 128,
        embed_depth: Count = 2,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.embed_pair = Perceptron(self.embed.out_features + spec.target.label_size, width, width, embed_depth)
        self.transformer = Transformer([TransformerLayer(width, heads, feed_forward) for _ in range(depth)], width)
        self.readout = Perceptron(width, feed_forward, spec.target.n_params, depth=2)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, N, D/heads]` of layer i, `mask [T, N]`; the task statistics."""
        h, phi = self.embed.adapt(support, descriptor)
        written = self.transformer.write(self._pairs(h, support), support.mask[:, None])
        return phi | written | {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self._read(phi, self.embed(x, phi), phi["mask"][:, None])

    def _pairs(self, h: Tensor, examples: Examples) -> Tensor:
        pairs: Tensor = self.embed_pair(h, self.spec.target.encode(examples.y, examples.mask).to(h.dtype))
        return pairs

    def _read(self, phi: Phi, h: Tensor, visible: Tensor) -> Tensor:
        """Features `[T, M, F]` to parameters `[T, M, P]`; a query sees what is `visible [T, 1 or M, held]`."""
        tokens = self.embed_pair(h, h.new_zeros(1, 1, self.spec.target.label_size))
        params: Tensor = self.readout(self.transformer.read(phi, tokens, visible))
        return params


class TNPA(TNPD):
    """TNP-A, autoregressive: a query also sees the queries before it, with their labels (equation 4 of the paper).

    Beside the tokens of `TNPD` there are the pairs (x_i, y_i) of the queries. Such a pair sees the support, the pairs
    before it and itself; the token (x_i, 0) that is read out sees the support and the pairs before it. Train it with
    `JointLoss`. `predict` treats each query as the first one: its marginal distribution.

    Deviations: those of `TNPD`. For images the paper blurs the labels of earlier targets in training; this does not.
    """

    method = Method(
        adapt=TNPD.method.adapt,
        predict=(
            (
                "see earlier queries",
                r"t_m^{l+1} = \net{layer}\big(t_m^l; [K^l, V^l, u_{<m}^l]\big), \quad K^l, V^l \in \task, "
                r"\quad u_m^0 = \net{MLP}(\known_m, y_m)",
            ),
            ("one after another", r"p(y_{1:M} \mid x_{1:M}, \task) = \prod_m p(y_m \mid x_m, y_{<m}, \task)"),
        ),
        cost=("N^2", "M (N + M)"),
        kin={"TNPD": "a query sees the queries before it with their labels, so that samples are coherent"},
    )

    def extend(self, phi: Phi, examples: Examples) -> Phi:
        """phi after more examples `[T, N, ...]`, each of which sees the support and those before it.

        Unlike in `adapt` their order matters, and what phi held does not change.

        Raises:
            ValueError: if the examples are not of the kind that the learner was built for.
        """
        examples, _, _ = self.check(examples, phi.get("descriptor"))
        examples = self.scaled(examples, phi)
        return self._extend(phi, self.embed(examples.x, phi), examples)

    def joint(self, phi: Phi, query: Examples) -> Tensor:
        """Parameters `[T, M, P]` of p(y_m | x_m, support, query[:m]) for every m, in one pass.

        Raises:
            ValueError: if the query is not of the kind that the learner was built for.
        """
        query, _, _ = self.check(query, phi.get("descriptor"))
        query = self.scaled(query, phi)
        h = self.embed(query.x, phi)
        params = self._read(self._extend(phi, h, query), h, _visible(phi, query, itself=False))
        return self.in_units(within(params, phi.get("classes")), phi)

    def _extend(self, phi: Phi, h: Tensor, examples: Examples) -> Phi:
        mask = torch.cat([phi["mask"], examples.mask], dim=1)
        written = self.transformer.write(self._pairs(h, examples), _visible(phi, examples, itself=True), held=phi)
        return phi | written | {"mask": mask}


def _visible(phi: Phi, examples: Examples, itself: bool) -> Tensor:
    """Which keys each of `examples [T, M]` sees: all in phi, and earlier examples: `[T, M, held + M]`."""
    m = examples.mask.shape[1]
    earlier = torch.ones(m, m, dtype=torch.bool, device=examples.mask.device).tril(0 if itself else -1)
    return torch.cat([phi["mask"][:, None].expand(-1, m, -1), earlier & examples.mask[:, None]], dim=-1)
