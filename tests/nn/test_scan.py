"""Recurrences in chunks: equal to their equations step by step, with their gradients, at every length and decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metabox.nn import scan
from metabox.nn.inner_model import InnerModel
from metabox.nn.scan import segments

T, H, K, V, CHUNK = 2, 3, 6, 5, 16
LENGTHS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)
GATES = ("usual", "no decay", "strong decay", "low gains", "alike keys", "padding")
Parts = dict[str, Tensor]


def made(kind: str, gates: str, n: int, dtype: torch.dtype) -> Parts:
    """What a recurrence reads, and its state before the first step, not 0."""
    random = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(T, H, *shape, generator=random, dtype=torch.double)

    q, k, v, decay, beta, gain = normal(n, K), normal(n, K), normal(n, V), -normal(n).abs(), normal(n), normal(n)
    state, beta = normal(K, V + (kind == "exponential")), beta.sigmoid()
    if gates == "no decay":
        decay, beta = 0 * decay, 0 * beta + 1
    if gates == "strong decay":
        decay = 1e3 * decay
    if gates == "low gains":
        decay, gain = decay - 5, gain - 100
    if gates == "alike keys":
        k, decay, beta = k[:, :, :1].expand_as(k) + 1e-3 * k, 1e-3 * decay, 0 * beta + 1
    if gates == "padding":
        real = torch.arange(n) < torch.tensor([n // 2, n])[:, None, None]
        decay, beta, gain = decay * real, beta * real, gain.masked_fill(~real, -math.inf)
        v = v * real[..., None] if kind == "linear" else v
    k = F.normalize(k, dim=-1) if kind == "delta" else k
    parts = {"q": q, "k": k, "v": v, "decay": decay, "state": state}
    parts |= {"delta": {"beta": beta}, "exponential": {"gain": gain, "top": normal()}, "linear": {}}[kind]
    return {name: part.to(dtype) for name, part in parts.items()}


def linear(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> Iterator[Any]:
    for t in range(q.shape[2]):
        state = decay[:, :, t].exp()[..., None, None] * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        yield (state * q[:, :, t, :, None]).sum(-2), state


def delta(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> Iterator[Any]:
    for t in range(q.shape[2]):
        state = state * decay[:, :, t].exp()[..., None, None]
        recalled = (state * k[:, :, t, :, None]).sum(-2)
        u = (v[:, :, t] - recalled) * beta[:, :, t, None]
        state = state + k[:, :, t, :, None] * u[..., None, :]
        yield (state * q[:, :, t, :, None]).sum(-2), state


def exponential(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, gain: Tensor, state: Tensor, top: Tensor
) -> Iterator[Any]:
    c, n = state[..., :-1], state[..., -1]
    for t in range(q.shape[2]):
        new = torch.maximum(decay[:, :, t] + top, gain[:, :, t])
        f, i, top = (decay[:, :, t] + top - new).exp()[..., None], (gain[:, :, t] - new).exp()[..., None], new
        c = f[..., None] * c + i[..., None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = f * n + i * k[:, :, t]
        divisor = torch.maximum((n * q[:, :, t]).sum(-1).abs(), (-top).exp()) + 1e-6
        yield (c * q[:, :, t, :, None]).sum(-2) / divisor[..., None], torch.cat([c, n[..., None]], -1), top


DEFINITIONS: dict[str, Callable[..., Iterator[Any]]] = {"linear": linear, "delta": delta, "exponential": exponential}
KINDS = pytest.mark.parametrize("kind", DEFINITIONS)


def by_steps(kind: str, parts: Parts) -> list[Tensor]:
    """The outputs and what is left after the last step, by the equations."""
    steps = list(DEFINITIONS[kind](**parts))
    first = [parts[name] for name in ("state", "top") if name in parts]
    outputs = torch.stack([step[0] for step in steps], dim=2) if steps else parts["v"]
    return [outputs, *(steps[-1][1:] if steps else first)]


def by_chunks(kind: str, parts: Parts, chunk: int = CHUNK) -> list[Tensor]:
    return list(getattr(scan, f"{kind}_scan")(**parts, chunk=chunk))


def near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert got.isfinite().all()
    largest = float(wanted.detach().abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * (largest or 1.0))


@KINDS
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("n", LENGTHS)
def test_chunks_are_the_steps_one_after_the_other(kind: str, gates: str, n: int) -> None:
    parts = made(kind, gates, n, torch.double)
    for got, wanted in zip(by_chunks(kind, parts), by_steps(kind, parts), strict=True):
        near(got, wanted, 1e-9 if kind == "exponential" else 1e-10)


@KINDS
@pytest.mark.parametrize("gates", GATES)
def test_chunks_in_float32_are_near_the_exact_steps(kind: str, gates: str) -> None:
    parts = made(kind, gates, LENGTHS[-1], torch.double)
    if (
        kind == "exponential" and gates != "low gains"
    ):  # as the gates are at first: the divisor of spread ones may be near 0
        parts |= {"gain": parts["gain"] * 0.1, "decay": parts["decay"] * 0.02, "top": 0 * parts["top"]}
        parts |= {"state": 0 * parts["state"]}
    rough = {name: part.float() for name, part in parts.items()}
    wanted = by_steps(kind, {name: part.double() for name, part in rough.items()})
    for got, exact in zip(by_chunks(kind, rough), wanted, strict=True):
        assert got.dtype == torch.float
        near(got.double(), exact, 1e-4 if kind == "exponential" else 1e-5)


@KINDS
@pytest.mark.parametrize("gates", GATES)
def test_gradients_of_chunks_are_those_of_the_steps(kind: str, gates: str) -> None:
    parts = {name: part.requires_grad_() for name, part in made(kind, gates, LENGTHS[-1], torch.double).items()}
    found = []
    for run in (by_chunks, by_steps):
        total = sum((part.sin() * torch.arange(part.numel()).view_as(part).cos()).sum() for part in run(kind, parts))
        found.append(torch.autograd.grad(total, list(parts.values())))  # type: ignore[arg-type]  # a sum of some
    for name, got, wanted in zip(parts, *found, strict=True):
        near(got, wanted, 1e-8)
        # What came before the chunk is forgotten if the decay is strong.
        assert gates == "strong decay" or wanted.abs().max() > 0, name


@KINDS
@pytest.mark.parametrize("gates", GATES)
def test_gradients_of_chunks_in_float32_are_finite(kind: str, gates: str) -> None:
    parts = {name: part.requires_grad_() for name, part in made(kind, gates, LENGTHS[-1], torch.float).items()}
    total = sum((part.sin() * torch.arange(part.numel()).view_as(part).cos()).sum() for part in by_chunks(kind, parts))
    for name, grad in zip(parts, torch.autograd.grad(total, list(parts.values())), strict=True):  # type: ignore[arg-type]
        assert grad.isfinite().all(), name


@KINDS
def test_the_size_of_chunks_changes_nothing(kind: str) -> None:
    parts = made(kind, "usual", 70, torch.double)
    for chunk in (1, 7, 64, 100):
        for got, wanted in zip(by_chunks(kind, parts, chunk), by_steps(kind, parts), strict=True):
            near(got, wanted, 1e-9)


@KINDS
@pytest.mark.parametrize("gates", ["usual", "strong decay", "padding"])
def test_many_reads_of_one_state_are_steps_of_which_each_is_the_next(kind: str, gates: str) -> None:
    parts = made(kind, gates, 4, torch.double)
    read, write = getattr(scan, f"{kind}_read"), getattr(scan, f"{kind}_write")
    got = read(**parts)
    for m in range(4):
        one = {name: part if name in ("state", "top") else part[:, :, m : m + 1] for name, part in parts.items()}
        output, *after = by_steps(kind, one)
        near(got[:, :, m : m + 1], output, 1e-12)
        written = write(**{name: part for name, part in one.items() if name != "q"})
        for new, wanted in zip(written if isinstance(written, tuple) else (written,), after, strict=True):
            near(new, wanted, 1e-12)


def test_a_segment_is_summed_even_if_what_came_before_it_is_far_larger() -> None:
    logs = torch.tensor([-1e8, -0.25, -0.5, -1.0])
    assert segments(logs)[2].tolist() == [-0.75, -0.5, 0.0, -math.inf]


# --------------------------------------------------------------- test-time training


def by_autograd(model: InnerModel, state: Parts, parts: Parts, real: Tensor) -> tuple[Tensor, Parts]:
    """One task's gradient steps one after the other; each is that of the loss, found by autograd."""
    names, outputs = [name for name in state if "_sum" not in name and name != "position"], []
    weights = {name: state[name].requires_grad_() for name in names}
    sums = {name: state[name.replace(".", "_sum.")] for name in names}
    place = int(state["position"])

    def inner(x: Tensor, weights: Parts) -> Tensor:
        for i in range(len(names) // 2):
            x = F.gelu(x, approximate="tanh") if i else x
            x = x @ weights[f"weight.{i}"] + weights[f"bias.{i}"]
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * model.norm_weight + model.norm_bias

    def turned(x: Tensor) -> Tensor:
        rate = torch.tensor([1e4 ** (-i / K) for i in range(0, K, 2)], dtype=x.dtype)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(rate), place * rate)).flatten(-2)

    for t in range(int(real.sum())):
        q, k, v = (parts[name][:, :, t : t + 1] for name in "qkv")
        q, k = turned(q), turned(k)
        loss = (inner(k, weights) - (v - k)).square().sum((-2, -1)) / 2
        grads = torch.autograd.grad((loss * parts["rate"][:, :, t]).sum(), list(weights.values()), create_graph=True)
        sums = {name: sums[name] + grad for name, grad in zip(names, grads, strict=True)}
        share = (1 + model.share[place]).clamp(min=0) / (place + 1)
        now = {name: weights[name] - share * sums[name] for name in names}
        outputs.append(q + inner(q, now))
        place = (place + 1) % model.batch
        if not place:
            weights, sums = now, {name: torch.zeros_like(part) for name, part in sums.items()}
    after = {"position": torch.tensor([place]), **weights}
    return torch.cat(outputs, dim=2), after | {name.replace(".", "_sum."): part for name, part in sums.items()}


@pytest.mark.parametrize("sizes", [[K, K], [K, 10, K]], ids=["linear", "mlp"])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 17])
@pytest.mark.parametrize("unknown", [False, True])
def test_the_dual_form_is_one_gradient_step_after_the_other(
    sizes: list[int], batch: int, n: int, unknown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: unknown)  # as on a GPU: first places are not looked at
    torch.manual_seed(0)
    model = InnerModel(H, sizes, batch).double()
    with torch.no_grad():
        for part in model.parameters():
            part.add_(torch.randn_like(part), alpha=0.2)
        model.share[batch // 2] = -1.5 * (batch > 1)  # a share is 0 at least
    parts = {name: torch.randn(3, H, n, K, dtype=torch.double) for name in "qkv"}
    real = torch.arange(n) < torch.tensor([n, n - n // 3, n])[:, None]
    parts["rate"] = torch.rand(3, H, n, dtype=torch.double) * real[:, None]
    state = model.start(parts["q"])
    state |= {name: torch.randn_like(part) for name, part in state.items() if "_sum" in name}
    state["position"] = torch.tensor([0, batch - 1, batch // 2])  # each task is elsewhere in its mini-batch
    got, after = model.scan(state, **parts, real=real)
    for t in range(3):
        own = {name: part[t : t + 1].detach() for name, part in state.items()}
        wanted, left = by_autograd(model, own, {name: part[t : t + 1] for name, part in parts.items()}, real[t])
        near(got[t : t + 1][:, :, real[t]], wanted, 1e-10)
        for name, part in left.items():
            near(after[name][t : t + 1].double(), part.double(), 1e-10)
    weights = list(model.parameters())
    total = got[0].sin().sum()
    own = {name: part[:1] for name, part in state.items()}
    wanted = by_autograd(model, own, {name: part[:1] for name, part in parts.items()}, real[0])[0].sin().sum()
    for one, other in zip(
        *(torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True) for part in (total, wanted)),
        strict=True,
    ):
        near(one, other, 1e-9)


def test_a_sequence_of_no_steps_leaves_the_inner_model_as_it_is() -> None:
    model, none = InnerModel(H, [K, K], 4), torch.zeros(2, H, 0, K)
    state = model.start(none)
    got, after = model.scan(state, none, none, none, none[..., 0], torch.ones(2, 0, dtype=torch.bool))
    assert got.shape == none.shape
    assert all(torch.equal(after[name], part) for name, part in state.items())
