"""Hard parameter sharing: one network, and a last layer for each task."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from metabox.config import Unpack
from metabox.learners.base import Phi
from metabox.learners.method import Method
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.task_code import CODE_OF_TASK, CodeOptions
from metabox.nn.backbones import MakeBackbone
from metabox.nn.conditioned import CODE, Held, condition_layers
from metabox.nn.conditioning import BackboneFiLM, Conditioner, FiLM, Heads
from metabox.nn.mlp import Perceptron
from metabox.ranges import Natural
from metabox.targets import TaskSpec


class HardSharing(MultiTask):
    """Hard parameter sharing (Caruana 1997, "Multitask Learning"): one network with a last layer for each task.

    The descriptor may enter in other ways than by heads: with `condition` the code conditions the features, or what
    the layer `at` of the backbone reads, and two shared layers follow; with `film` it modulates the backbone.

    Deviations: the shared network is any backbone, where the paper has one hidden layer.

    Args:
        spec: the tasks.
        backbone: the shared network; by default Conv4 for images, an MLP for vectors.
        condition: how the code of a named task enters: by heads, or another class of `metabox.nn.conditioning`.
        at: where it enters: at the "input", at layer 0, 1, ... of the backbone, at the "features" that it gives, or at
            "all" of these. Heads are the last layer.
        film: whether the code also modulates every normalisation layer of the backbone.
        **kwargs: of `MultiTask`: code, error, prior.

    Raises:
        ValueError: if targets have parts, which need heads, and `condition` or `film` is set, or the backbone has
            nothing to modulate; if heads are to enter anywhere but at the end, or the backbone has no such layer.
    """

    method = Method(
        adapt=CODE_OF_TASK,
        predict=(
            ("shared network", r"h = F(x; \params_{\mathrm{sh}})"),
            ("head of the task", r"p(y \mid x, \task) = p\Big(y; \sum_k \task_k W_k h\Big)"),
        ),
        cost=("N K", "M"),
        kin={"Independent": "all layers but the last are one network"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        condition: type[Conditioner] = Heads,
        at: Literal["input", "features", "all"] | Natural = "features",
        film: bool = False,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, backbone, FiLM, **kwargs)  # FiLM, since Concat would only shift a head's bias
        if spec.target.parts and (film or condition is not Heads):
            raise ValueError(
                "expected heads for targets with parts, whose code is not given, got "
                f"condition {condition.__name__}, film {film}; leave both out"
            )
        if condition is Heads and at != "features":
            raise ValueError(
                f'expected heads at the end, got at={at!r}; leave it out, or choose a condition such as "Concat"'
            )
        features = self.embed.out_features
        self.films = BackboneFiLM(self.embed.backbone.film_sizes(), self.copies) if film else None
        inside, behind = self._places(at)
        condition_layers(inside, condition, self.copies)
        self.enters = bool(inside)
        self.condition = condition(features, self.copies) if behind and condition is not Heads else None
        self.head = (
            self.heads(features)
            if condition is Heads
            else Perceptron(
                self.condition.out_features if self.condition else features, features, spec.target.n_params, depth=2
            )
        )

    def _places(self, at: str | int) -> tuple[list[Held], bool]:
        """The layers of the backbone at whose input the code enters, and whether it enters behind the last."""
        if at == "features":
            return [], True
        layers = self.embed.backbone.in_order()
        if at == "all":
            return layers, True
        place = 0 if isinstance(at, str) else at
        if place > len(layers):
            raise ValueError(
                f'expected "input", "features", "all" or a layer from 0 to {len(layers)}, the number of layers of the '
                f"backbone, got {at!r}"
            )
        return layers[place : place + 1], place == len(layers)

    @property
    def modulates(self) -> bool:
        return self.enters or self.films is not None

    def modulation(self, code: Tensor) -> dict[str, Tensor] | None:
        films = self.films(code) if self.films else {}
        return films | ({CODE: code} if self.enters else {}) or None

    def chooser(self, phi: Phi) -> Tensor | None:
        return phi["code"] if isinstance(self.head, Perceptron) else super().chooser(phi)

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        if isinstance(self.head, Perceptron):
            h = self.condition(h, code) if self.condition else h
            out: Tensor = self.head(h)
            return out
        params: Tensor = self.head(self.rows(h), code)
        return params
