"""Layers of recurrent learners beside independent transcriptions of their authors' code, with the same weights.

Read there: huggingface/transformers, qwen3_next (`torch_recurrent_gated_delta_rule`); fla-org/flash-linear-attention,
`layers/gated_deltanet.py`; state-spaces/mamba, `modules/mamba2.py` (`step`); NX-AI/xlstm, `blocks/mlstm`
(`parallel_stabilized_simple`); test-time-training/ttt-lm-pytorch, `ttt.py` (the dual form).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.learners import TTT, XLSTM, GatedDeltaNet, LinearAttention, Mamba2
from metabox.nn.mixer import Mixer, ShortConvolution
from metabox.targets import Classes, TaskSpec

WIDTH, HEADS, N = 16, 4, 37
SPEC = TaskSpec((4,), Classes(3))


def convolved(x: Tensor, convolution: ShortConvolution) -> Tensor:
    """`nn.Conv1d` over channels one by one, with padding on both sides, of which the end is cut off."""
    weight = convolution.weight.T[:, None]
    whole = F.conv1d(x.transpose(1, 2), weight, convolution.bias, padding=3, groups=x.shape[-1])
    return whole[..., : x.shape[1]].transpose(1, 2)


def split(x: Tensor, n: int = HEADS) -> Tensor:
    """[b, l, (h d)] to [b, h, l, d]."""
    return x.reshape(*x.shape[:2], n, -1).transpose(1, 2)


def linear_attention(layer: Mixer, x: Tensor) -> Tensor:
    q, k, v = F.silu(convolved(layer.qkv(x), layer.convolution)).chunk(3, dim=-1)
    q, k, v = F.elu(split(q)) + 1, F.elu(split(k)) + 1, split(v)
    weights = torch.tril(q @ k.transpose(-1, -2))
    y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)
    return layer.out(y.transpose(1, 2).flatten(2))


def gated_deltanet(layer: Mixer, x: Tensor) -> Tensor:
    def l2norm(x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)

    mixed = F.silu(convolved(layer.qkv(x), layer.convolution))
    query, key, value = torch.split(mixed, [WIDTH, WIDTH, 2 * WIDTH], dim=-1)
    b, a = layer.gates(x).chunk(2, dim=-1)
    beta = b.sigmoid()
    g = -layer.log_rate.exp() * F.softplus(a + layer.step_bias)
    query, key, value = l2norm(split(query)), l2norm(split(key)), split(value)
    query = query * query.shape[-1] ** -0.5
    state = x.new_zeros(len(x), HEADS, query.shape[-1], value.shape[-1])
    outputs = []
    for i in range(x.shape[1]):
        q_t, k_t, v_t = query[:, :, i], key[:, :, i], value[:, :, i]
        state = state * g[:, i].exp()[..., None, None]
        kv_mem = (state * k_t.unsqueeze(-1)).sum(dim=-2)
        delta = (v_t - kv_mem) * beta[:, i].unsqueeze(-1)
        state = state + k_t.unsqueeze(-1) * delta.unsqueeze(-2)
        outputs.append((state * q_t.unsqueeze(-1)).sum(dim=-2))
    o = torch.stack(outputs, dim=1)
    gate = layer.gate(x).reshape(o.shape)
    o = o * torch.rsqrt(o.pow(2).mean(-1, keepdim=True) + 1e-5) * layer.norm.weight * F.silu(gate)
    return layer.out(o.flatten(2))


def mamba2(layer: Mixer, x: Tensor) -> Tensor:
    states, groups, inner = layer.states, layer.groups, 2 * WIDTH
    z, xbc, dt = torch.split(layer.project(x), [inner, inner + 2 * groups * states, HEADS], dim=-1)
    u, b, c = torch.split(F.silu(convolved(xbc, layer.convolution)), [inner, groups * states, groups * states], dim=-1)
    u = u.reshape(*u.shape[:2], HEADS, -1)
    b, c = (part.reshape(*part.shape[:2], groups, states) for part in (b, c))
    a = -torch.exp(layer.log_rate)
    dt = F.softplus(dt + layer.step_bias)
    outputs, h = [], x.new_zeros(len(x), HEADS, u.shape[-1], states)
    for t in range(x.shape[1]):
        ys = []
        new = []
        for head in range(HEADS):
            group = head // (HEADS // groups)
            da = torch.exp(dt[:, t, head] * a[head])[:, None, None]
            dbx = dt[:, t, head, None, None] * u[:, t, head, :, None] * b[:, t, group, None, :]
            new.append(h[:, head] * da + dbx)
            ys.append((new[-1] * c[:, t, group, None, :]).sum(-1) + layer.skip[head] * u[:, t, head])
        h = torch.stack(new, dim=1)
        outputs.append(torch.cat(ys, dim=-1))
    y = torch.stack(outputs, dim=1) * F.silu(z)
    y = y.reshape(*y.shape[:2], groups, -1)  # RMSNormGated(norm_before_gate=False, group_size=inner // groups)
    y = (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)).flatten(2)
    return layer.out(y * torch.cat([norm.weight for norm in layer.norms]))


def xlstm(layer: Mixer, x: Tensor) -> Tensor:
    def headwise(x: Tensor, blocks: Tensor) -> Tensor:
        parts = [part @ block.T for part, block in zip(x.split(4, dim=-1), blocks, strict=True)]
        return torch.cat(parts, dim=-1)

    x_mlstm, z = layer.project(x).chunk(2, dim=-1)
    act = F.silu(convolved(x_mlstm, layer.convolution))
    flat = [headwise(part, blocks) for part, blocks in zip((act, act, x_mlstm), layer.blocks, strict=True)]
    igate, fgate = (part.transpose(-1, -2).unsqueeze(-1) for part in layer.gates(torch.cat(flat, -1)).chunk(2, -1))
    queries, keys, values = (split(part) for part in flat)
    b, nh, s, dh = queries.shape
    ltr = torch.tril(torch.ones(s, s, dtype=torch.bool))
    log_f = torch.cat([x.new_zeros(b, nh, 1, 1), torch.cumsum(F.logsigmoid(fgate), dim=-2)], dim=-2)
    rep = log_f.repeat(1, 1, 1, s + 1)
    log_fg = torch.where(ltr, (rep - rep.transpose(-2, -1))[:, :, 1:, 1:], -float("inf"))
    log_d = log_fg + igate.transpose(-2, -1)
    max_log_d = log_d.max(dim=-1, keepdim=True).values
    # The step from m_0 = 0: the parallel form of the paper starts from the gates alone.
    max_log_d = torch.maximum(max_log_d, log_f[:, :, 1:])
    c = (queries @ (keys / math.sqrt(dh)).transpose(-2, -1)) * torch.exp(log_d - max_log_d)
    normalizer = torch.maximum(c.sum(dim=-1, keepdim=True).abs(), torch.exp(-max_log_d))
    h = (c / (normalizer + 1e-6)) @ values
    h = F.group_norm(h.transpose(1, 2).reshape(b * s, nh * dh), nh, weight=layer.gain, eps=1e-5).view(b, s, nh * dh)
    return layer.out((h + layer.skip * act) * F.silu(z))


def ttt(layer: Mixer, x: Tensor) -> Tensor:
    model, size = layer.model, WIDTH // HEADS
    xq, xk = (split(convolved(layer.query_key(x), convolution)) for convolution in layer.convolutions)
    xv = split(layer.value(x))
    xq, xk = rotary(xq, model.batch), rotary(xk, model.batch)
    lr = layer.log_odds(x).sigmoid().transpose(1, 2) * layer.rate / size
    params = [
        (w.expand(len(x), -1, -1, -1), b.expand(len(x), -1, -1, -1))
        for w, b in zip(model.weights, model.biases, strict=True)
    ]
    outputs = []
    for start in range(0, x.shape[1], model.batch):
        q, k, v, rate = (part[:, :, start : start + model.batch] for part in (xq, xk, xv, lr))
        n = q.shape[2]
        place = torch.arange(1, n + 1, dtype=x.dtype)
        token = torch.clamp_min(1 / place + model.share[:n] / place, 0.0)
        eta = torch.tril(token[:, None] * rate[..., None, :])
        output, params = mini_batch(model, params, q, k, v, eta)
        outputs.append(output)
    y = layer.norm(torch.cat(outputs, dim=2).transpose(1, 2).flatten(2))
    return layer.out(F.gelu(layer.gate(x), approximate="tanh") * y)


def rotary(x: Tensor, batch: int) -> Tensor:
    b, h, n, d = x.shape
    x = x.reshape(b, h, n, d // 2, 2).transpose(3, 4).reshape(b, h, n, d)
    freqs = (torch.arange(n) % batch)[:, None] / 10000 ** (torch.arange(0, d, 2, dtype=x.dtype) / d)
    emb = torch.cat((freqs, freqs), dim=-1)
    half = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1)
    x = x * emb.cos() + half * emb.sin()
    return x.reshape(b, h, n, 2, d // 2).transpose(3, 4).reshape(b, h, n, d)


def mini_batch(
    model: torch.nn.Module, params: list, q: Tensor, k: Tensor, v: Tensor, eta: Tensor
) -> tuple[Tensor, list]:
    gamma, beta = model.norm_weight, model.norm_bias

    def ln(x: Tensor) -> tuple[Tensor, Tensor]:
        mu, var = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True, unbiased=False)
        std = torch.sqrt(var + 1e-6)
        return (x - mu) / std, std

    (w1, b1), *rest = params
    z1 = k @ w1 + b1
    x2 = F.gelu(z1, approximate="tanh")
    z = x2 @ rest[0][0] + rest[0][1] if rest else z1
    x_hat, std = ln(z)
    grad_hat, d = (gamma * x_hat + beta - (v - k)) * gamma, z.shape[-1]
    grad = d * grad_hat - grad_hat.sum(-1, keepdim=True) - x_hat * (grad_hat * x_hat).sum(-1, keepdim=True)
    grad, grad1 = grad / d / std, grad / d / std
    if rest:
        t = torch.tanh(0.79788456 * z1 * (1 + 0.044715 * z1 * z1))
        slope = 0.5 * z1 * ((1 - t * t) * (0.79788456 + 0.1070322243 * z1 * z1)) + 0.5 * (1 + t)
        grad1 = grad @ rest[0][0].transpose(-2, -1) * slope
    last = eta[:, :, -1, :, None]
    bar = q @ w1 - (eta * torch.tril(q @ k.transpose(-2, -1))) @ grad1 + b1 - eta @ grad1
    new = [(w1 - (last * k).transpose(-1, -2) @ grad1, b1 - torch.sum(last * grad1, dim=-2, keepdim=True))]
    if rest:
        ((w2, b2),) = rest
        bar2 = F.gelu(bar, approximate="tanh")
        bar = bar2 @ w2 - (eta * torch.tril(bar2 @ x2.transpose(-2, -1))) @ grad + b2 - eta @ grad
        new.append((w2 - (last * x2).transpose(-1, -2) @ grad, b2 - torch.sum(last * grad, dim=-2, keepdim=True)))
    return q + gamma * ln(bar)[0] + beta, new


CASES: dict[str, tuple[type, dict, Callable[[Mixer, Tensor], Tensor]]] = {
    "linear attention": (LinearAttention, {}, linear_attention),
    "Gated DeltaNet": (GatedDeltaNet, {}, gated_deltanet),
    "Mamba-2": (Mamba2, {"states": 6}, mamba2),
    "Mamba-2, groups": (Mamba2, {"states": 6, "groups": 2}, mamba2),
    "xLSTM": (XLSTM, {}, xlstm),
    "TTT-Linear": (TTT, {"inner": "linear"}, ttt),
    "TTT-MLP": (TTT, {"inner": "mlp", "rate": 0.1}, ttt),
}


def layer_of(name: str) -> tuple[Mixer, Tensor]:
    """A layer, with weights away from special values, and inputs."""
    torch.manual_seed(0)
    cls, options, _ = CASES[name]
    layer: Mixer = cls(SPEC, width=WIDTH, depth=1, heads=HEADS, **options).double().mixers[0]
    with torch.no_grad():
        for part in layer.parameters():
            part.add_(torch.randn_like(part), alpha=0.1)
    return layer, torch.randn(2, N, WIDTH, dtype=torch.double)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_that_of_its_authors(name: str) -> None:
    layer, x = layer_of(name)
    got, _ = layer.scan(layer.start(x), x, torch.ones(2, N, dtype=torch.bool))
    wanted = CASES[name][2](layer, x)
    torch.testing.assert_close(
        got, wanted, rtol=0, atol=(1e-6 if name == "TTT-MLP" else 1e-9) * float(wanted.detach().abs().max())
    )
