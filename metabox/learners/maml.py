"""MAML and ANIL: phi is the network, or its last layer, after a few steps of gradient descent on D_tr."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.ranges import Count, Positive
from metabox.targets import TaskSpec
from metabox.targets.base import task_mean

WEIGHTS = "weights."
"""Prefix of the names of adapted parameters in phi."""


class MAML(Learner):
    """Model-agnostic meta-learning (Finn et al. 2017), on learn2learn: the baseline that is not a black box.

    Equation (1) and algorithm 2: theta'_i = theta - lr * grad L_i(f_theta) on the support, once or several times, and
    the outer loop minimises L_i(f_theta'_i) on the queries, through these steps. Here phi_i is theta'_i. In the inner
    loop L_i is equation (3), the cross-entropy, for classes and binary labels, and equation (2), the squared error of
    the means, for reals; it ignores predicted scales.

    Deviations: L_i is a mean over the support in the inner loop too. The released code sums the means over K shots over
    the N classes, so that its step size of 0.4 (5-way) or 0.1 (20-way) is 2.0 here. Its inner loop changes convolutions
    and the last layer, and its batch norm has only a shift, which the inner loop leaves alone; here, as in
    learn2learn's examples, the inner loop changes all parameters, including batch norm's scale and shift. In that code
    the last feature map of Omniglot is averaged to 64 features, and the initial weights of the last layer are normal
    with variance 1. With a backbone of norm "batch", running statistics are used in evaluation; those of the paper, of
    all queries of a task together, are norm "transductive". Tasks are adapted one after another in a Python loop.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        lr: step size of the inner loop, 0.4 in the paper for Omniglot, 5-way.
        steps: gradient steps of the inner loop in training.
        evaluation_steps: the same in evaluation; None means as many as in training. The paper took 3 after training
            with 1. With running statistics, and early in training, more steps than in training are harmful.
        first_order: treat the gradients of the inner loop as constants (section 5.2).

    Raises:
        ImportError: if learn2learn is not installed.
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        lr: Positive = 0.4,
        steps: Count = 1,
        evaluation_steps: Count | None = None,
        first_order: bool = False,
    ) -> None:
        super().__init__(spec)
        learn2learn()
        evaluation_steps = steps if evaluation_steps is None else evaluation_steps
        self.lr, self.steps, self.evaluation_steps, self.first_order = lr, steps, evaluation_steps, first_order
        self.network = Network(spec, backbone)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `weights.NAME [T, ...]`, all trainable parameters; the task statistics."""
        parts = [
            self._adapt_task(support[one], *(None if part is None else part[one] for part in (descriptor, classes)))
            for one in _each(support)
        ]
        return {name: torch.cat([phi[name] for phi in parts]) for name in parts[0]}

    def _adapt_task(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi of one task, `[1, ...]`."""
        known: Phi = {}

        def predictions(network: Network) -> Tensor:
            nonlocal known
            h, known = network.embed.adapt(support, descriptor)
            params: Tensor = network.head(h)
            return params

        network = self._descend(self.network, predictions, support, classes)
        if any(name.startswith("backbone.") for name in known):  # statistics of the support with the adapted weights
            predictions(network)
        return _named_weights(network) | known

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        parts = []
        for t in range(len(x)):
            mine = {name: value[t : t + 1] for name, value in phi.items()}
            weights = {name.removeprefix(WEIGHTS): v[0] for name, v in mine.items() if name.startswith(WEIGHTS)}
            parts.append(functional_call(self.network, weights, (x[t : t + 1], mine)))
        return torch.cat(parts)

    def _descend(
        self, module: Any, predictions: Callable[[Any], Tensor], support: Examples, classes: Tensor | None
    ) -> Any:
        """A copy of `module` after gradient descent on the loss of `predictions(copy)`.

        The copy's parameters are functions of the module's.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(f"{type(self).__name__} adapts by gradients; use torch.no_grad, not inference_mode")
        first_order = self.first_order or not torch.is_grad_enabled()
        # Evaluation needs gradients too, and bf16 would round them before they are multiplied by `lr`.
        with torch.enable_grad(), torch.autocast(support.x.device.type, enabled=False):
            copy = learn2learn().algorithms.MAML(module, self.lr, first_order, allow_nograd=True).clone()
            for _ in range(self.steps if self.training else self.evaluation_steps):
                loss = self.spec.target.error(within(predictions(copy.module), classes), support.y)
                copy.adapt(task_mean(loss, support.mask).sum())
        return copy.module


class ANIL(MAML):
    """Almost no inner loop (Raghu et al. 2020, section 5): MAML whose inner loop changes only the last layer.

    Deviations: those of `MAML` that concern the last layer. Batch norm sees the images of all tasks together in
    training, as in the other learners, because they pass through the same backbone.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        lr: step size of the inner loop.
        steps: gradient steps of the inner loop in training.
        evaluation_steps: the same in evaluation; None means as many as in training.
        first_order: treat the gradients of the inner loop as constants.

    Raises:
        ImportError: if learn2learn is not installed.
    """

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `weights.head.weight [T, P, D]`, `weights.head.bias [T, P]`; the task statistics."""
        features, phi = self.network.embed.adapt(support, descriptor)
        heads = []
        for one in _each(support):
            h, own = features[one].to(self.network.head.weight.dtype), None if classes is None else classes[one]
            heads.append(self._descend(self.network.head, lambda head, h=h: head(h), support[one], own))  # type: ignore[misc]
        phi[f"{WEIGHTS}head.weight"] = torch.stack([head.weight for head in heads])
        phi[f"{WEIGHTS}head.bias"] = torch.stack([head.bias for head in heads])
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h: Tensor = self.network.embed(x, phi)
        return h @ phi[f"{WEIGHTS}head.weight"].mT.to(h.dtype) + phi[f"{WEIGHTS}head.bias"][:, None]


class Network(nn.Module):
    """The adapted network: inputs `[T, M, *x_shape]` and the task statistics to `[T, M, P]`."""

    def __init__(self, spec: TaskSpec, backbone: MakeBackbone | None) -> None:
        super().__init__()
        self.embed = Embedding(spec, backbone)
        self.head = nn.Linear(self.embed.out_features, spec.target.n_params)

    def forward(self, x: Tensor, known: Phi) -> Tensor:
        params: Tensor = self.head(self.embed(x, known))
        return params


def _each(support: Examples) -> Iterator[slice]:
    """The slice of each task."""
    return (slice(t, t + 1) for t in range(len(support)))


def _named_weights(network: nn.Module) -> Phi:
    return {WEIGHTS + name: p[None] for name, p in network.named_parameters() if p.requires_grad}


@cache
def learn2learn() -> Any:
    """The package, imported on first use.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gym, which it imports, advertises its successor
            return importlib.import_module("learn2learn")
    except ImportError as error:
        raise ImportError(
            "MAML and ANIL need learn2learn 0.2.0, which pip alone cannot install; "
            "run `python benchmarks/install_learn2learn.py` from a checkout of metabox"
        ) from error
