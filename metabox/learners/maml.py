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
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.norm import Norm
from metabox.ranges import Count, NotNegative, Positive
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

    In the inner loop L_i is a mean over the support. The authors' code (github.com/cbfinn/maml, `utils.py`) divides the
    cross-entropy of an example by K and sums over the N K examples, so its step size a is N a here: 0.4 in 5-way tasks
    is 2.0, 0.1 in 20-way tasks is 2.0. Its squared error is not halved: 0.01 is 0.02 here.

    That code's network has a batch norm with a shift only, which the inner loop leaves alone (`adapt_norm`, `Conv4`'s
    `gain`), with the statistics of all queries of a task together (norm "transductive"). For Omniglot the last feature
    map is averaged (`Conv4`'s `average`) and the first weights of the last layer are normal with variance 1
    (`head_std`). Recipes with its numbers have all of this; the defaults are those of learn2learn's examples.

    Deviations: batch norm adds 1e-5 to a variance (there 1e-3), strided convolutions are padded on both sides (there on
    one), and the other first weights are torch's. With norm "batch", running statistics are used in evaluation. Tasks
    are adapted one after another in a Python loop.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        lr: step size of the inner loop on the mean over the support.
        steps: gradient steps of the inner loop in training.
        evaluation_steps: the same in evaluation; None means as many as in training. The paper took 3 after training
            with 1. With running statistics, and early in training, more steps than in training are harmful.
        first_order: treat the gradients of the inner loop as constants (section 5.2).
        adapt_norm: whether the inner loop changes factors and shifts of normalisation layers too.
        head_std: standard deviation of the last layer's first weights, with biases of 0; None for torch's.

    Raises:
        ImportError: if learn2learn is not installed.
    """

    method = Method(
        adapt=(
            ("start from theta", r"\task^{(0)} = \params"),
            (
                "gradient steps",
                r"\task^{(k+1)} = \task^{(k)} - \alpha \nabla_{\task^{(k)}} \frac{1}{N} \sum_n "
                r"\mathcal{L}\big(y_n, F(x_n; \task^{(k)})\big)",
            ),
        ),
        predict=(
            ("the adapted network", r"p(y \mid x, \task) = p\big(y; F(x; \task)\big), \quad \task = \task^{(K)}"),
        ),
        cost=("N", "M"),
        parallel=False,
        exports=False,
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        lr: Positive = 0.4,
        steps: Count = 1,
        evaluation_steps: Count | None = None,
        first_order: bool = False,
        adapt_norm: bool = True,
        head_std: NotNegative | None = None,
    ) -> None:
        super().__init__(spec)
        learn2learn()
        evaluation_steps = steps if evaluation_steps is None else evaluation_steps
        self.lr, self.steps, self.evaluation_steps, self.first_order = lr, steps, evaluation_steps, first_order
        self.network = Network(spec, backbone)
        if head_std is not None:
            nn.init.normal_(self.network.head.weight, std=head_std)
            nn.init.zeros_(self.network.head.bias)
        self.fixed = set() if adapt_norm else set(_of_norms(self.network))

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
                self._step(copy, task_mean(loss, support.mask).sum())
        return copy.module

    def _step(self, copy: Any, loss: Tensor) -> None:
        """A step of the inner loop for learn2learn's copy, all of whose parameters its own `adapt` would change."""
        weights = [
            weight if weight.requires_grad and name not in self.fixed else None
            for name, weight in copy.module.named_parameters()
        ]
        second = not copy.first_order
        asked = [weight for weight in weights if weight is not None]
        found = iter(torch.autograd.grad(loss, asked, retain_graph=second, create_graph=second, allow_unused=True))
        gradients = [None if weight is None else next(found) for weight in weights]
        copy.module = learn2learn().algorithms.maml.maml_update(copy.module, copy.lr, gradients)


class ANIL(MAML):
    """Almost no inner loop (Raghu et al. 2020, section 5): MAML whose inner loop changes only the last layer.

    Its inner loss is a mean over the support, as `MAML`'s: the sum over N K examples divided by K, which MAML's authors
    step on, has an N times longer step.

    Deviations: those of `MAML` that concern the last layer. Batch norm sees the images of all tasks together in
    training, as in the other learners, because they pass through the same backbone.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        lr: step size of the inner loop.
        steps: gradient steps of the inner loop in training.
        evaluation_steps: the same in evaluation; None means as many as in training.
        first_order: treat the gradients of the inner loop as constants.
        head_std: standard deviation of the last layer's first weights, with biases of 0; None for torch's.

    Raises:
        ImportError: if learn2learn is not installed.
    """

    method = Method(
        adapt=(
            ("embed", r"\known_n = \feat(x_n)"),
            (
                "steps of the last layer",
                r"\task^{(k+1)} = \task^{(k)} - \alpha \nabla_{\task^{(k)}} \frac{1}{N} \sum_n "
                r"\mathcal{L}\big(y_n, \task^{(k)} \known_n\big)",
            ),
        ),
        predict=(
            ("the adapted layer", r"p(y \mid x, \task) = p\big(y; \task\, \known\big), \quad \task = \task^{(K)}"),
        ),
        cost=("N", "M"),
        kin={"MAML": "only the last layer is changed by the inner loop"},
        parallel=False,
        exports=False,
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        lr: Positive = 0.4,
        steps: Count = 1,
        evaluation_steps: Count | None = None,
        first_order: bool = False,
        head_std: NotNegative | None = None,
    ) -> None:
        super().__init__(
            spec,
            backbone=backbone,
            lr=lr,
            steps=steps,
            evaluation_steps=evaluation_steps,
            first_order=first_order,
            head_std=head_std,
        )

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


def _of_norms(network: nn.Module) -> Iterator[str]:
    """The names of the parameters of normalisation layers."""
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, Norm)
    for name, module in network.named_modules():
        if isinstance(module, kinds):
            yield from (f"{name}.{own}" for own, _ in module.named_parameters())


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
