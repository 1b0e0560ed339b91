"""Gated DeltaNet: a recurrent network that forgets, and corrects what its state recalls for a key."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.learners.layered import Layered
from metabox.learners.method import Method
from metabox.nn.attention import check_heads
from metabox.nn.backbones import MakeBackbone
from metabox.nn.label_code import LabelKind
from metabox.nn.mixer import (
    Convolve,
    Mixer,
    Parts,
    RMSNorm,
    ShortConvolution,
    State,
    heads,
    log_uniform,
    step_decay,
    step_size,
)
from metabox.nn.scan import delta_read, delta_scan, delta_write
from metabox.ranges import Count
from metabox.targets import TaskSpec


class GatedDeltaNet(Layered):
    """Gated DeltaNet (Yang et al. 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule").

    S <- e^g S; u = beta (v - S^T k); S <- S + k u^T; o = S^T q / sqrt(K). First the state decays, then what it recalls
    for the key is moved towards the value by beta, then the query is answered.

    As in the authors' code (fla-org/flash-linear-attention): q, k and v are linear, then a causal convolution of 4
    steps and SiLU; q and k have length 1; values are twice as wide as keys; beta = sigmoid(linear),
    g = -A softplus(linear + bias); RMSNorm of each head's output, then a SiLU gate.

    Deviations: A starts uniform in [1, 16], as in `Mamba2`; the code has [0, 16], whose logarithm has no bound. There
    are no feed-forward layers.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a step.
        depth: layers.
        heads: of a layer, a divisor of `width`; keys have `width / heads` numbers.
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = W[\known_n, y_{n-1}]"),
            ("queries, keys, values", r"(q_n, k_n, v_n) = \net{conv}(u_{n-3:n})"),
            ("decay", r"S \leftarrow e^{g_n} S_{n-1}"),
            ("correct", r"S_n = S + k_n \beta_n \big(v_n - S^\top k_n\big)^\top"),
            ("keep the states", r"\task = \{(S_N, u_{N-2:N})^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            ("one further step", r"o = S^\top q / \sqrt{K}, \quad S = \net{write}\big(\known, y_N; \task\big)"),
            ("parameters", r"p(y \mid x, \task) = p(y; W' o)"),
        ),
        cost=("N", "M"),
        kin={"LinearAttention": "the state decays, and what it recalls for a key is corrected in place of added to"},
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
        mixers = [_GatedDelta(width, check_heads(heads, width)) for _ in range(depth)]
        super().__init__(spec, backbone, labels, truncate, width, mixers)


class _GatedDelta(Mixer):
    """phi of a layer: `memory [T, H, K, V]`, S."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.size, self.n_heads, self.channels = width // n_heads, n_heads, 4 * width
        self.qkv = nn.Linear(width, 4 * width, bias=False)
        self.convolution = ShortConvolution(4 * width, bias=False)
        self.gates = nn.Linear(width, 2 * n_heads, bias=False)  # of beta, of g
        self.log_rate = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.step_bias = nn.Parameter(log_uniform(n_heads))
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.norm = RMSNorm(2 * self.size)
        self.out = nn.Linear(2 * width, width, bias=False)

    def empty(self, like: Tensor) -> State:
        return {"memory": like.new_zeros(len(like), self.n_heads, self.size, 2 * self.size)}

    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        return self.qkv(x), {"gates": self.gates(x), "gate": self.gate(x)}

    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        mixed, width = F.silu(convolve(self.convolution)), self.channels // 4
        q, k, v = mixed.split([width, width, 2 * width], dim=-1)
        beta, step = made["gates"].chunk(2, dim=-1)
        return {
            "q": _unit(heads(q, self.size)) / math.sqrt(self.size),
            "k": _unit(heads(k, self.size)),
            "v": heads(v, 2 * self.size),
            "decay": step_decay(self.log_rate, step_size(step, self.step_bias)),
            "beta": beta.sigmoid().transpose(1, 2),
            "gate": made["gate"],
        }

    def silent(self, parts: Parts, real: Tensor) -> Parts:
        return parts | {name: parts[name] * real for name in ("decay", "beta")}

    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        mixed, memory = delta_scan(*_recurrence(parts), state["memory"])
        return mixed, {"memory": memory}

    def read(self, state: State, parts: Parts) -> Tensor:
        return delta_read(*_recurrence(parts), state["memory"])

    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        return {"memory": delta_write(parts["k"], parts["v"], parts["decay"], parts["beta"], state["memory"])}

    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        y: Tensor = self.out(self.norm(mixed).flatten(2) * F.silu(parts["gate"]))
        return y


def _recurrence(parts: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return parts["q"], parts["k"], parts["v"], parts["decay"], parts["beta"]


def _unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
