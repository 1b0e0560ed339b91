"""Linear attention: a recurrent network whose state is the sum of the products of keys and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.layered import Layered
from metabox.learners.method import Method
from metabox.nn.attention import check_heads
from metabox.nn.backbones import MakeBackbone
from metabox.nn.label_code import LabelKind
from metabox.nn.mixer import Convolve, Mixer, Parts, ShortConvolution, State, heads
from metabox.nn.scan import SMALLEST, linear_read, linear_scan, linear_write
from metabox.ranges import Count
from metabox.targets import TaskSpec


class LinearAttention(Layered):
    """Linear attention (Katharopoulos et al. 2020, "Transformers are RNNs"), the simplest state that is a matrix.

    S <- S + phi(k) v^T; z <- z + phi(k); o = S^T phi(q) / (z.phi(q)), where phi(x) = elu(x) + 1. Nothing is forgotten,
    and nothing that was written is corrected: `GatedDeltaNet`, `Mamba2` and `XLSTM` add that.

    Deviations: a causal convolution of 4 steps and SiLU over q, k and v, as in `GatedDeltaNet`, since a label comes one
    step after its input; no feed-forward layers; RMSNorm before a layer.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a step.
        depth: layers.
        heads: of a layer, a divisor of `width`.
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = W[\known_n, y_{n-1}]"),
            ("queries, keys, values", r"(q_n, k_n, v_n) = \net{conv}(u_{n-3:n})"),
            (
                "write",
                r"S_n = S_{n-1} + \varphi(k_n) v_n^\top, \quad s_n = s_{n-1} + \varphi(k_n), \quad \varphi(k) "
                r"= \operatorname{elu}(k) + 1",
            ),
            ("keep the states", r"\task = \{(S_N, s_N, u_{N-2:N})^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            (
                "one further step",
                r"o = \dfrac{S^\top \varphi(q)}{s^\top \varphi(q)}, \quad (S, s) = \net{write}\big(\known, "
                r"y_N; \task\big)",
            ),
            ("parameters", r"p(y \mid x, \task) = p(y; W' o)"),
        ),
        cost=("N", "M"),
        kin={
            "GPICL": "attention without its softmax is a sum, so that phi has a fixed size",
            "LSTM": "the state is a matrix and changes linearly, so that whole sequences are computed at once",
        },
        exports=False,
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 64,
        depth: Count = 2,
        heads: Count = 4,
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        mixers = [_LinearAttention(width, check_heads(heads, width)) for _ in range(depth)]
        super().__init__(spec, backbone, labels, truncate, width, mixers)


class _LinearAttention(Mixer):
    """phi of a layer: `sums [T, H, K, V + 1]`, S and, in its last column, z."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.size, self.n_heads, self.channels = width // n_heads, n_heads, 3 * width
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.convolution = ShortConvolution(3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def empty(self, like: Tensor) -> State:
        return {"sums": like.new_zeros(len(like), self.n_heads, self.size, self.size + 1)}

    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        return self.qkv(x), {}

    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        q, k, v = (heads(part, self.size) for part in F.silu(convolve(self.convolution)).chunk(3, dim=-1))
        return {
            "q": F.elu(q) + 1,
            "k": F.elu(k) + 1,
            "v": F.pad(v, (0, 1), value=1.0),
            "decay": v.new_zeros(v.shape[:3]),
        }

    def silent(self, parts: Parts, real: Tensor) -> Parts:
        return parts | {"k": parts["k"] * real[..., None]}

    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        sums, after = linear_scan(*_recurrence(parts), state["sums"])
        return _mean(sums), {"sums": after}

    def read(self, state: State, parts: Parts) -> Tensor:
        return _mean(linear_read(*_recurrence(parts), state["sums"]))

    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        return {"sums": linear_write(parts["k"], parts["v"], parts["decay"], state["sums"])}

    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        y: Tensor = self.out(mixed.flatten(2))
        return y


def _recurrence(parts: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return parts["q"], parts["k"], parts["v"], parts["decay"]


def _mean(sums: Tensor) -> Tensor:
    return sums[..., :-1] / (sums[..., -1:] + SMALLEST)
