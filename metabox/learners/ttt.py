"""Test-time training layers: a recurrent network whose state is a small model, trained along the sequence."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.layered import Layered
from metabox.learners.method import Method
from metabox.nn.attention import check_heads
from metabox.nn.backbones import MakeBackbone
from metabox.nn.inner_model import EPSILON, InnerModel
from metabox.nn.label_code import LabelKind
from metabox.nn.metric import exact
from metabox.nn.mixer import Convolve, Mixer, Parts, ShortConvolution, State, heads
from metabox.ranges import Count, Positive
from metabox.targets import TaskSpec

InnerKind = Literal["linear", "mlp"]


class TTT(Layered):
    """Test-time training (Sun et al. 2024, "Learning to (Learn at Test Time): RNNs with Expressive Hidden States").

    The state of a layer is a model W, and a step is one step of gradient descent on half the squared length of
    f(k) - (v - k), with f(k) = LN(k W + b); its output is q + f(q). A mini-batch of steps takes its gradients at the
    same W, as in the paper, so that it is a few matrix products (the dual form); see `InnerModel`.

    As in the authors' code (test-time-training/ttt-lm-pytorch, layers with a gate): q and k are one linear map, then a
    causal convolution of 4 steps each, and rotary positions within the mini-batch; the rate of a step is
    rate * sigmoid(linear) / K, times a learned share at position j; layer norm and a GELU gate follow.

    Deviations: the share is max(0, 1 + learned_j) / j, where the code has max(0, 1 / j + learned_j), of which the later
    ones are soon 0 for good. No feed-forward layers, no convolution before a layer. Linear maps have torch's initial
    weights.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a step.
        depth: layers.
        heads: of a layer, a divisor of `width`; the size of a head is even.
        inner: the model in the state, "linear" or "mlp", with a hidden layer of four times the size of a head.
        batch: steps of a mini-batch.
        rate: of the gradient steps, before the learned factors; in the paper 1 for "linear" and 0.1 for "mlp".
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = W[\known_n, y_{n-1}]"),
            ("queries, keys, values", r"(q_n, k_n, v_n) = \net{conv}(u_{n-3:n})"),
            (
                "one gradient step",
                r"W_n = W_{n-1} - \eta_n \nabla_{W} \tfrac12 \big\lVert \net{LN}(k_n W + b) - (v_n - k_n) "
                r"\big\rVert^2",
            ),
            ("keep the states", r"\task = \{(W_N, b_N, u_{N-2:N})^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            (
                "one further step",
                r"o = q + \net{LN}(q W + b), \quad (W, b) = \net{write}\big(\known, y_N; \task\big)",
            ),
            ("parameters", r"p(y \mid x, \task) = p(y; W' o)"),
        ),
        cost=("N", "M"),
        kin={
            "GatedDeltaNet": "the state is a model, and each step one of gradient descent on it",
            "MAML": "the inner loop is a layer of the network, and what it learns is chosen by the outer loop",
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
        inner: InnerKind = "linear",
        batch: Count = 16,
        rate: Positive = 1.0,
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        check_heads(heads, width)
        if width // heads % 2:
            raise ValueError(f"expected an even size of each head, for rotary positions, got {width} / {heads}")
        mixers = [_TestTime(width, heads, inner, batch, rate) for _ in range(depth)]
        super().__init__(spec, backbone, labels, truncate, width, mixers)


class _TestTime(Mixer):
    """phi of a layer: that of `InnerModel`."""

    def __init__(self, width: int, n_heads: int, inner: InnerKind, batch: int, rate: float) -> None:
        super().__init__()
        self.size, self.channels, self.rate = width // n_heads, width, rate
        hidden = [4 * self.size] if inner == "mlp" else []
        self.model = InnerModel(n_heads, [self.size, *hidden, self.size], batch)
        self.query_key, self.value, self.gate = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.convolutions = nn.ModuleList(ShortConvolution(width, bias=True) for _ in range(2))
        self.log_odds = nn.Linear(width, n_heads)
        nn.init.normal_(self.log_odds.weight, std=0.02)
        nn.init.zeros_(self.log_odds.bias)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.out = nn.Linear(width, width, bias=False)

    def empty(self, like: Tensor) -> State:
        return self.model.start(like)

    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        rate = exact(self.log_odds(x)).sigmoid().transpose(1, 2) * (self.rate / self.size)
        return self.query_key(x), {"v": heads(self.value(x), self.size), "rate": rate, "gate": self.gate(x)}

    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        q, k = (heads(convolve(convolution), self.size) for convolution in self.convolutions)  # type: ignore[arg-type]
        return made | {"q": q, "k": k}

    def silent(self, parts: Parts, real: Tensor) -> Parts:
        return parts | {"rate": parts["rate"] * real}

    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        return self.model.scan(state, parts["q"], parts["k"], parts["v"], parts["rate"], real)

    def read(self, state: State, parts: Parts) -> Tensor:
        return self.model.read(state, parts["q"], parts["k"], parts["v"], parts["rate"])

    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        return self.model.write(state, parts["k"], parts["v"], parts["rate"], real)

    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        y: Tensor = self.out(self.norm(mixed.flatten(2)) * F.gelu(parts["gate"], approximate="tanh"))
        return y
