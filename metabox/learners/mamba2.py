"""Mamba-2: a recurrent network of selective state spaces with a scalar decay in each head."""

from __future__ import annotations

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
from metabox.nn.scan import linear_read, linear_scan, linear_write
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Mamba2(Layered):
    """Mamba-2 (Dao & Gu 2024, "Transformers are SSMs").

    h <- e^(Delta A) h + B (Delta x)^T; y = h^T C + D x. A is a negative number of each head, and Delta, B, C and x are
    made of the input: what is decayed, written and read depends on it.

    As in the authors' code (state-spaces/mamba): inner features are twice as wide as `width`; a causal convolution of 4
    steps with bias and SiLU over x, B and C together; Delta = softplus(linear + bias); a SiLU gate, then RMSNorm within
    each group. The heads of a group share B and C.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a step.
        depth: layers.
        heads: of a layer, a divisor of twice the `width`.
        states: size of B and C, and of the state of each feature.
        groups: of heads, a divisor of `heads`.
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = W[\known_n, y_{n-1}]"),
            (
                "what depends on input",
                r"(\bar{x}_n, B_n, C_n) = \net{conv}(u_{n-3:n}), \quad \Delta_n = "
                r"\operatorname{softplus}(W_\Delta u_n + b)",
            ),
            ("decay and write", r"S_n = e^{\Delta_n A} S_{n-1} + B_n (\Delta_n \bar{x}_n)^\top, \quad A < 0"),
            ("keep the states", r"\task = \{(S_N, u_{N-2:N})^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            ("one further step", r"o = S^\top C + D \bar{x}, \quad S = \net{write}\big(\known, y_N; \task\big)"),
            ("parameters", r"p(y \mid x, \task) = p(y; W' o)"),
        ),
        cost=("N", "M"),
        kin={"LinearAttention": "the state decays by a rate that depends on the input, and nothing is normalised"},
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
        states: Count = 32,
        groups: Count = 1,
        labels: LabelKind = "one-hot",
        truncate: Count | None = None,
    ) -> None:
        check_heads(heads, 2 * width, of="twice the width")
        if heads % groups:
            raise ValueError(f"expected groups as a divisor of the {heads} heads, got {groups}")
        mixers = [_StateSpace(width, heads, states, groups) for _ in range(depth)]
        super().__init__(spec, backbone, labels, truncate, width, mixers)


class _StateSpace(Mixer):
    """phi of a layer: `hidden [T, H, states, V]`, h."""

    def __init__(self, width: int, n_heads: int, states: int, groups: int) -> None:
        super().__init__()
        inner = 2 * width
        self.sizes, self.n_heads, self.groups = (inner, groups * states, groups * states), n_heads, groups
        self.states, self.size, self.channels = states, inner // n_heads, inner + 2 * groups * states
        self.project = nn.Linear(width, inner + self.channels + n_heads, bias=False)  # z, (x, B, C), Delta
        self.convolution = ShortConvolution(self.channels, bias=True)
        self.log_rate = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.step_bias = nn.Parameter(log_uniform(n_heads))
        self.skip = nn.Parameter(torch.ones(n_heads))
        self.norms = nn.ModuleList(RMSNorm(inner // groups) for _ in range(groups))
        self.out = nn.Linear(inner, width, bias=False)

    def empty(self, like: Tensor) -> State:
        return {"hidden": like.new_zeros(len(like), self.n_heads, self.states, self.size)}

    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        gate, seen, step = self.project(x).split([self.sizes[0], self.channels, self.n_heads], dim=-1)
        return seen, {"gate": gate, "delta": step_size(step, self.step_bias)}

    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        x, b, c = F.silu(convolve(self.convolution)).split(list(self.sizes), dim=-1)
        x, repeats = heads(x, self.size), self.n_heads // self.groups
        b, c = (heads(part, self.states).repeat_interleave(repeats, dim=1) for part in (b, c))
        delta = made["delta"]
        own = x * self.skip[:, None, None]
        v, decay = x * delta.transpose(1, 2)[..., None], step_decay(self.log_rate, delta)
        return {"q": c, "k": b, "v": v, "decay": decay, "own": own, "gate": made["gate"]}

    def silent(self, parts: Parts, real: Tensor) -> Parts:
        return parts | {"v": parts["v"] * real[..., None], "decay": parts["decay"] * real}

    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        mixed, hidden = linear_scan(*_recurrence(parts), state["hidden"])
        return mixed + parts["own"], {"hidden": hidden}

    def read(self, state: State, parts: Parts) -> Tensor:
        return linear_read(*_recurrence(parts), state["hidden"]) + parts["own"]

    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        return {"hidden": linear_write(parts["k"], parts["v"], parts["decay"], state["hidden"])}

    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        gated = (mixed.flatten(2) * F.silu(parts["gate"])).chunk(self.groups, dim=-1)
        y: Tensor = self.out(torch.cat([norm(part) for norm, part in zip(self.norms, gated, strict=True)], dim=-1))
        return y


def _recurrence(parts: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return parts["q"], parts["k"], parts["v"], parts["decay"]
