"""GPICL: a plain causal transformer over inputs and delayed labels. phi is the per-layer keys and values."""

from __future__ import annotations

import math

import torch
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


class GPICL(Learner):
    """General-purpose in-context learner: a plain causal transformer (Kirsch et al. 2022).

    Source: "General-Purpose In-Context Learning by Meta-Learning Transformers".

    Token i is a linear map of (x_i, y_{i-1}), with the label delayed by one step and zero at the first, plus a position
    code; a causal transformer predicts y_i from it. Train it with `StreamLoss` on many tasks made by
    `RandomProjections`: each task projects its inputs by its own random matrix and permutes its labels.

    Deviations: inputs may pass through a backbone (`Flatten` for the paper's plain vectors). Positions are sines and
    cosines (Vaswani et al. 2017), so that a support may be longer than those in training. A padded example takes no
    position.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a token.
        depth: transformer layers.
        heads: attention heads of a layer, a divisor of `width`.
    """

    method = Method(
        adapt=(
            ("delay labels", r"t_n^0 = W[\known_n, y_{n-1}] + \mathrm{pos}_n"),
            ("causal attention", r"t_n^{l+1} = \net{layer}\big(t_n^l; t_{1:n}^l\big)"),
            ("keep keys and values", r"\task = \{K^l, V^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            (
                "one further step",
                r"t^{l+1} = \net{layer}\big(t^l; [K^l, t^l], [V^l, t^l]\big), \quad K^l, V^l \in \task, \quad "
                r"t^0 = W[\known, y_N] + \mathrm{pos}_{N+1}",
            ),
            ("parameters", r"p(y \mid x, \task) = p\big(y; W' t^L\big)"),
        ),
        cost=("N^2", "M N"),
        kin={
            "TNPD": "the support is a sequence: attention is causal, and a label comes one step late",
            "LSTM": "attention to all earlier steps, in place of a state of fixed size",
        },
        exports=False,
    )
    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        depth: Count = 3,
        heads: Count = 4,
    ) -> None:
        super().__init__(spec)
        if width % 2:
            raise ValueError(f"expected an even width, half for sines and half for cosines, got {width}")
        self.embed = Embedding(spec, backbone, causal=True)
        self.token = nn.Linear(self.embed.out_features + spec.target.label_size, width)
        self.transformer = Transformer([TransformerLayer(width, heads, 4 * width) for _ in range(depth)], width)
        self.readout = nn.Linear(width, spec.target.n_params)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, N, D/heads]` of layer i, `mask [T, N]`.

        And the last label, not yet read, `label [T, L]`; the task statistics.
        """
        return self._read(support, descriptor)[0]

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.embed(x, phi)
        label = phi["label"][:, None].expand(-1, h.shape[1], -1)
        tokens = self._token(h, label, phi["mask"].sum(1, keepdim=True))
        params: Tensor = self.readout(self.transformer.read(phi, tokens, phi["mask"][:, None], itself=True))
        return params

    def unroll(self, examples: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Tensor:
        return self._read(examples, descriptor)[1]

    def _read(self, sequence: Examples, descriptor: Tensor | None) -> tuple[Phi, Tensor]:
        """phi after the sequence, and the prediction at each of its steps `[T, N, P]`, by one causal pass."""
        h, phi = self.embed.adapt(sequence, descriptor)
        t, n = sequence.mask.shape
        order = real_first(sequence.mask)
        mask = sequence.mask.take_along_dim(order[..., 0], dim=1)
        labels = self.spec.target.encode(sequence.y, sequence.mask).take_along_dim(order, dim=1)
        late = torch.cat([labels.new_zeros(t, 1, labels.shape[-1]), labels], dim=1)  # [T, N + 1, L]
        count = mask.sum(1)
        tokens = self._token(h.take_along_dim(order, dim=1), late[:, :n], torch.arange(n, device=h.device)[None])
        causal = torch.ones(n, n, dtype=torch.bool, device=h.device).tril()
        phi |= {"mask": mask, "label": late[torch.arange(t, device=h.device), count]}
        written, read = self.transformer.write_and_read(tokens, causal[None])
        return phi | written, self.readout(read).take_along_dim(order.argsort(dim=1), dim=1)

    def _token(self, h: Tensor, label: Tensor, place: Tensor) -> Tensor:
        """Features `[T, N, F]`, labels `[T, N, L]` and positions `[T or 1, N or 1]` to tokens `[T, N, D]`."""
        tokens: Tensor = self.token(torch.cat([h, label.to(h.dtype)], dim=-1))
        half = tokens.shape[-1] // 2
        slower = torch.exp(torch.arange(half, device=h.device) * (-math.log(1e4) / half))
        angle = place[..., None] * slower
        return tokens + torch.cat([angle.sin(), angle.cos()], dim=-1).to(tokens.dtype)
