"""xLSTM: a recurrent network with a matrix for its cell and exponential gates."""

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
from metabox.nn.metric import exact
from metabox.nn.mixer import Convolve, Mixer, Parts, ShortConvolution, State, heads
from metabox.nn.scan import exponential_read, exponential_scan, exponential_write
from metabox.ranges import Count
from metabox.targets import TaskSpec

BLOCK = 4
"""Features that q, k and v are made of together, in the paper."""


class XLSTM(Layered):
    """xLSTM with mLSTM layers only, xLSTM[1:0] (Beck et al. 2024, "xLSTM: Extended Long Short-Term Memory").

    C <- sigmoid(f) C + e^i v k^T; n <- sigmoid(f) n + e^i k; h = C q / max(abs(n.q), 1). C and n are kept times e^-m,
    m <- max(log sigmoid(f) + m, i), so that no exponential is too large.

    As in the authors' code (NX-AI/xlstm): features and a gate, each twice as wide as `width`; a causal convolution of 4
    steps with bias and SiLU before q and k, but not before v; these are linear in blocks of 4 features; k is divided by
    sqrt(K). Biases of f start at 3 to 6 over the heads, those of i normal with deviation 0.1, and weights of both at 0.
    Each head's output is normalised, the convolved features are added with learned weights, and a SiLU gate follows.

    Deviations: RMSNorm before a layer, where the code has layer norm. The blocks have the initial weights of a linear
    layer. So have the maps into and out of a layer, where the code has normal ones (`small_init_init_`, `wang_init_`).

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a step, even.
        depth: layers.
        heads: of a layer, a divisor of twice the `width`.
        labels: how labels are read, "one-hot", as "strings" of five characters, or in the "same-step" (`LabelCode`).
        truncate: steps after which the gradient is cut; None for the whole sequence (see `Recurrent`).
    """

    method = Method(
        adapt=(
            ("delay labels", r"u_n = W[\known_n, y_{n-1}]"),
            ("gates", r"i_n, f_n = W[q_n, k_n, v_n] + b, \quad (q_n, k_n, v_n) = \net{conv}(u_{n-3:n})"),
            (
                "forget and write",
                r"S_n = \sigma(f_n)\, S_{n-1} + e^{i_n} v_n k_n^\top, \quad s_n = \sigma(f_n)\, s_{n-1} + "
                "e^{i_n} k_n",
            ),
            ("keep the states", r"\task = \{(S_N, s_N, u_{N-2:N})^l\}_l \cup \{y_N\}"),
        ),
        predict=(
            (
                "one further step",
                r"o = \dfrac{S q}{\max(|s^\top q|, 1)}, \quad (S, s) = \net{write}\big(\known, y_N; \task\big)",
            ),
            ("parameters", r"p(y \mid x, \task) = p(y; W' o)"),
        ),
        cost=("N", "M"),
        kin={
            "LinearAttention": "a gate of forgetting, and an exponential one of writing",
            "LSTM": "the cell is a matrix, and gates do not see the state",
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
        if width % 2:
            raise ValueError(f"expected an even width, twice of which is cut into blocks of {BLOCK}, got {width}")
        check_heads(heads, 2 * width, of="twice the width")
        mixers = [_MatrixLSTM(width, heads) for _ in range(depth)]
        super().__init__(spec, backbone, labels, truncate, width, mixers)


class _MatrixLSTM(Mixer):
    """phi of a layer: `cell [T, H, K, V + 1]`, C^T and, in its last column, n; and `top [T, H]`, m."""

    decayed = ("blocks",)

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        inner = self.channels = 2 * width
        self.size, self.n_heads = inner // n_heads, n_heads
        self.project = nn.Linear(width, 2 * inner, bias=False)
        self.convolution = ShortConvolution(inner, bias=True)
        bound = 1 / math.sqrt(BLOCK)
        self.blocks = nn.Parameter(torch.empty(3, inner // BLOCK, BLOCK, BLOCK).uniform_(-bound, bound))  # of q, k, v
        self.gates = nn.Linear(3 * inner, 2 * n_heads)  # of i, of f
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[:n_heads].normal_(std=0.1)
            self.gates.bias[n_heads:] = torch.linspace(3, 6, n_heads)
        self.gain = nn.Parameter(torch.ones(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)

    def empty(self, like: Tensor) -> State:
        sizes = (len(like), self.n_heads, self.size, self.size + 1)
        return {"cell": like.new_zeros(sizes), "top": like.new_zeros(sizes[:2])}

    def seen(self, x: Tensor) -> tuple[Tensor, Parts]:
        features, gate = self.project(x).chunk(2, dim=-1)
        return features, {"features": features, "gate": gate}

    def parts(self, convolve: Convolve, made: Parts) -> Parts:
        convolved, features = F.silu(convolve(self.convolution)), exact(made["features"])
        qkv = [
            torch.einsum("tnbi,boi->tnbo", part.unflatten(-1, (-1, BLOCK)), block).flatten(2)
            for part, block in zip((convolved, convolved, features), self.blocks, strict=True)
        ]
        gain, keep = (part.transpose(1, 2) for part in self.gates(torch.cat(qkv, dim=-1)).chunk(2, dim=-1))
        q, k, v = (heads(part, self.size) for part in qkv)
        gates = {"decay": F.logsigmoid(exact(keep)), "gain": gain}
        return {"q": q, "k": k / math.sqrt(self.size), "v": v, **gates, "convolved": convolved, "gate": made["gate"]}

    def silent(self, parts: Parts, real: Tensor) -> Parts:
        return parts | {"decay": parts["decay"] * real, "gain": parts["gain"].masked_fill(~real, -math.inf)}

    def recur(self, state: State, parts: Parts, real: Tensor) -> tuple[Tensor, State]:
        mixed, cell, top = exponential_scan(*_recurrence(parts), state["cell"], state["top"])
        return mixed, {"cell": cell, "top": top}

    def read(self, state: State, parts: Parts) -> Tensor:
        return exponential_read(*_recurrence(parts), state["cell"], state["top"])

    def write(self, state: State, parts: Parts, real: Tensor) -> State:
        k, v, decay, gain = (parts[name] for name in ("k", "v", "decay", "gain"))
        cell, top = exponential_write(k, v, decay, gain, state["cell"], state["top"])
        return {"cell": cell, "top": top}

    def output(self, mixed: Tensor, parts: Parts) -> Tensor:
        h = F.layer_norm(mixed, (self.size,)).flatten(2) * self.gain + self.skip * parts["convolved"]
        y: Tensor = self.out(h * F.silu(parts["gate"]))
        return y


def _recurrence(parts: Parts) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return parts["q"], parts["k"], parts["v"], parts["decay"], parts["gain"]
