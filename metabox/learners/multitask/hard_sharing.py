"""Hard parameter sharing: one network, and a last layer for each task."""

from __future__ import annotations

from torch import Tensor

from metabox.config import Unpack
from metabox.learners.multitask.multitask import MultiTask
from metabox.learners.multitask.task_code import CodeOptions
from metabox.nn.backbones import MakeBackbone
from metabox.nn.conditioning import BackboneFiLM, Conditioner, FiLM, Heads
from metabox.nn.mlp import Perceptron
from metabox.targets import TaskSpec


class HardSharing(MultiTask):
    """Hard parameter sharing (Caruana 1997, "Multitask Learning"): one network with a last layer for each task.

    The descriptor may enter in other ways than by heads: with `condition` the code conditions the features, and two
    shared layers follow; with `film` it modulates the backbone.

    Deviations: the shared network is any backbone, where the paper has one hidden layer.

    Args:
        spec: the tasks.
        backbone: the shared network; by default Conv4 for images, an MLP for vectors.
        condition: how the code of a named task enters: by heads, or another class of `metabox.nn.conditioning`.
        film: whether the code also modulates every normalisation layer of the backbone.
        **kwargs: of `MultiTask`: code, error, prior.

    Raises:
        ValueError: if targets have parts, which need heads, and `condition` or `film` is set, or the backbone has
            nothing to modulate.
    """

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        condition: type[Conditioner] = Heads,
        film: bool = False,
        **kwargs: Unpack[CodeOptions],
    ) -> None:
        super().__init__(spec, backbone, FiLM, **kwargs)  # FiLM, since Concat would only shift a head's bias
        if spec.target.parts and (film or condition is not Heads):
            raise ValueError(
                "expected heads for targets with parts, whose code is not given, got "
                f"condition {condition.__name__}, film {film}; leave both out"
            )
        features = self.embed.out_features
        self.films = BackboneFiLM(self.embed.backbone.film_sizes(), self.copies) if film else None
        self.condition = None if condition is Heads else condition(features, self.copies)
        self.head = (
            Perceptron(self.condition.out_features, features, spec.target.n_params, depth=2)
            if self.condition
            else self.heads(features)
        )

    @property
    def modulates(self) -> bool:
        return self.films is not None

    def modulation(self, code: Tensor) -> dict[str, Tensor] | None:
        return self.films(code) if self.films else None

    def outputs(self, h: Tensor, code: Tensor | None) -> Tensor:
        params: Tensor = self.head(self.condition(h, code)) if self.condition else self.head(self.rows(h), code)
        return params
