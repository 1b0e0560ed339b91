"""Test-time training: an inner model for each task and head that gradient steps train along the sequence, in its state.

The inner model f maps a key to the difference of value and key, f(k) = LN(model(k)), where the model is a linear map or
a perceptron with one hidden layer; the loss of a step is half the squared length of f(k) - (v - k). Gradients are those
at the parameters W with which a mini-batch of steps began; at position j in it (from 1), the parameters are

    W_j = W - share_j * sum over s <= j of rate_s * gradient_s

Letters as in `metabox.nn.scan`; also B steps of a mini-batch, and a model's layers i, each with a weight and a bias.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]

EPSILON = 1e-6
"""Added to variances, as in the authors' code."""


class InnerModel(nn.Module):
    """The initial parameters of the inner model, and its training along a sequence.

    The state is: `weight.i [T, H, in, out]` and `bias.i [T, H, 1, out]`, with which the mini-batch began;
    `weight_sum.i` and `bias_sum.i`, of rate * gradient since then; `position [T]` in the mini-batch, 0 to B - 1.

    Args:
        n_heads: H.
        sizes: of the model's layers, from K to K.
        batch: B.
    """

    decayed = ()

    def __init__(self, n_heads: int, sizes: list[int], batch: int) -> None:
        super().__init__()
        self.n_layers, self.batch = len(sizes) - 1, batch
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.randn(n_heads, a, b) * 0.02 for a, b in pairs)
        self.biases = nn.ParameterList(torch.zeros(n_heads, 1, b) for _, b in pairs)
        self.norm_weight = nn.Parameter(torch.ones(n_heads, 1, sizes[-1]))
        self.norm_bias = nn.Parameter(torch.zeros(n_heads, 1, sizes[-1]))
        self.share = nn.Parameter(torch.zeros(batch))

    def start(self, like: Tensor) -> State:
        """The state before the first step, for T tasks as in `like [T, ...]`."""
        state = {"position": torch.zeros(len(like), dtype=torch.long, device=like.device)}
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            for name, first in (("weight", weight), ("bias", bias)):
                state[f"{name}.{i}"] = first.to(like.dtype).repeat(len(like), 1, 1, 1)
                state[f"{name}_sum.{i}"] = torch.zeros_like(state[f"{name}.{i}"])
        return state

    def read(self, state: State, q: Tensor, k: Tensor, v: Tensor, rate: Tensor) -> Tensor:
        """The outputs `[T, H, M, K]` of M steps from one state, each with the gradient of its own step alone."""
        place = state["position"].long()[:, None]
        q, k = turned(q, place), turned(k, place)
        inputs, grads = self._descend(state, k, v)
        share, x = self._shares()[place][..., None, None], q
        for i in range(self.n_layers):
            own = rate[..., None] * ((x * inputs[i]).sum(-1, keepdim=True) + 1) * grads[i]
            x = self._layer(state, i, x, own, share)
        return q + self._normed(x)

    def write(self, state: State, k: Tensor, v: Tensor, rate: Tensor, real: Tensor) -> State:
        """The state after one step (N = 1), unchanged for tasks whose `real [T]` is False; their rate is 0."""
        inputs, grads = self._descend(state, turned(k, state["position"][:, None]), v)
        position = state["position"].long() + real
        full = position == self.batch
        return self._after(state, inputs, grads, rate, full) | {"position": torch.where(full, 0, position)}

    def scan(self, state: State, q: Tensor, k: Tensor, v: Tensor, rate: Tensor, real: Tensor) -> tuple[Tensor, State]:
        """The outputs `[T, H, N, K]` of a sequence and the state after it, a mini-batch at a time.

        Padding, for which `real [T, N]` is False, comes last in every task, and its rate is 0.
        """
        n, first = q.shape[2], state["position"].long()
        if not q.numel():  # no steps, or no tasks
            return q, state
        # Mini-batches begin at other steps in each task if it goes on from a state: step i is put in place first + i.
        # A GPU would have to wait for the largest first place.
        unknown = first.is_cuda or torch.compiler.is_compiling()
        source = torch.arange(n + (self.batch - 1 if unknown else int(first.max())), device=q.device) - first[:, None]
        inside, source = (source >= 0) & (source < n), source.clamp(0, n - 1)
        q, k, v = (part.take_along_dim(source[:, None, :, None], dim=2) for part in (q, k, v))
        rate = rate.take_along_dim(source[:, None], dim=2) * inside[:, None]
        inside = real.take_along_dim(source, dim=1) & inside
        full = F.pad(inside, (0, -len(source[0]) % self.batch), value=False)[:, self.batch - 1 :: self.batch].unbind(1)
        parts, outputs = (part.split(self.batch, dim=2) for part in (q, k, v, rate)), []
        for query, key, value, rates, ends in zip(*parts, full, strict=True):
            place = torch.arange(query.shape[2], device=q.device)
            query, key = turned(query, place), turned(key, place)
            inputs, grads = self._descend(state, key, value)
            x, share = query, self._shares()[: len(place), None]
            for i in range(self.n_layers):
                steps = ((x @ inputs[i].mT + 1) * rates[..., None, :]).tril() @ grads[i]
                x = self._layer(state, i, x, steps, share)
            outputs.append(query + self._normed(x))
            state = state | self._after(state, inputs, grads, rates, ends)
        index = first[:, None] + torch.arange(n, device=q.device)
        mixed = torch.cat(outputs, dim=2).take_along_dim(index[:, None, :, None], dim=2)
        return mixed, state | {"position": (first + real.sum(1)) % self.batch}

    def _shares(self) -> Tensor:
        """share_j, 1 / j times 1 plus a learned number, 0 at least: `[B]`."""
        steps = torch.arange(1, self.batch + 1, device=self.share.device, dtype=self.share.dtype)
        return (1 + self.share).clamp(min=0) / steps

    def _layer(self, state: State, i: int, x: Tensor, steps: Tensor, share: Tensor) -> Tensor:
        """Inputs x of layer i through the parameters W_j, given their products with the sums of this mini-batch."""
        before = x @ state[f"weight_sum.{i}"] + state[f"bias_sum.{i}"]
        z = x @ state[f"weight.{i}"] + state[f"bias.{i}"] - share * (before + steps)
        return z if i + 1 == self.n_layers else F.gelu(z, approximate="tanh")

    def _descend(self, state: State, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs of each layer for the keys, and the gradients of the loss by its outputs, all at W."""
        inputs, outputs = [k], []
        for i in range(self.n_layers):
            outputs.append(inputs[i] @ state[f"weight.{i}"] + state[f"bias.{i}"])
            inputs.append(F.gelu(outputs[i], approximate="tanh"))
        centred, scale = _centred(outputs[-1])
        error = (centred * self.norm_weight + self.norm_bias - (v - k)) * self.norm_weight
        along = (error * centred).mean(-1, keepdim=True) * centred
        grads = [(error - error.mean(-1, keepdim=True) - along) * scale]
        for i in range(self.n_layers - 1, 0, -1):
            grads.insert(0, (grads[0] @ state[f"weight.{i}"].mT) * _gelu_slope(outputs[i - 1]))
        return inputs[: self.n_layers], grads

    def _normed(self, z: Tensor) -> Tensor:
        return _centred(z)[0] * self.norm_weight + self.norm_bias

    def _after(self, state: State, inputs: list[Tensor], grads: list[Tensor], rate: Tensor, full: Tensor) -> State:
        """Parameters and sums after some steps of a mini-batch, which are the last of it if `full [T]`."""
        after, full, share = {}, full[:, None, None, None], self._shares()[-1]
        for i in range(self.n_layers):
            scaled = rate[..., None] * grads[i]
            sums = {"weight": inputs[i].mT @ scaled, "bias": scaled.sum(-2, keepdim=True)}
            for name, new in sums.items():
                total = state[f"{name}_sum.{i}"] + new
                after[f"{name}.{i}"] = state[f"{name}.{i}"] - torch.where(full, share * total, 0.0)
                after[f"{name}_sum.{i}"] = torch.where(full, 0.0, total)
        return after


def turned(x: Tensor, place: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): pairs of features `[T, H, N, K]`, turned by angles that grow with the place.

    `place` is that of each step, `[N]`, or of all steps of a task, `[T, 1]`.
    """
    pairs = x.unflatten(-1, (-1, 2))
    rate = 1e4 ** (-torch.arange(0, x.shape[-1], 2, device=x.device, dtype=x.dtype) / x.shape[-1])
    angle = place[..., None] * rate
    angle = angle if place.ndim == 1 else angle[:, None]
    (a, b), cos, sin = pairs.unbind(-1), angle.cos(), angle.sin()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def _centred(z: Tensor) -> tuple[Tensor, Tensor]:
    """z at mean 0 and variance 1 over its last axis, and what it was multiplied by."""
    centred = z - z.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    return centred * scale, scale


def _gelu_slope(z: Tensor) -> Tensor:
    """The derivative of GELU in its approximation by tanh."""
    factor = math.sqrt(2 / math.pi)
    tanh = torch.tanh(factor * z * (1 + 0.044715 * z * z))
    return 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh * tanh) * factor * (1 + 3 * 0.044715 * z * z)
