"""Embedding: a backbone, its task statistics, and the task's descriptor, as every learner's first layer."""

from __future__ import annotations

from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.nn.backbones import MakeBackbone, make_backbone
from metabox.nn.conditioning import Concat, Conditioner
from metabox.targets import TaskSpec


class Embedding(nn.Module):
    """Inputs `[T, N, *x_shape]` to features `[T, N, out_features]`, conditioned on the descriptor if tasks have one.

    Like a learner it has two functions: `adapt` for the support, `forward` for the queries.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        condition: how the descriptor enters.
        causal: whether the learner reads the support as a sequence, which forbids statistics of the whole support.

    Raises:
        ValueError: if `causal` is True and the backbone normalises by the support.
    """

    def __init__(
        self,
        spec: TaskSpec,
        backbone: MakeBackbone | None = None,
        condition: type[Conditioner] = Concat,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = make_backbone(backbone, spec.x_shape)
        if causal and self.backbone.norm not in ("none", "batch", "group"):
            raise ValueError(
                f'expected norm "batch" or "group" for a learner that reads a sequence, got {self.backbone.norm!r}, '
                "which lets an example depend on later ones"
            )
        features = self.backbone.out_features
        self.condition = condition(features, spec.descriptor_size) if spec.descriptor_size else None
        self.out_features = self.condition.out_features if self.condition else features

    def adapt(
        self, support: Examples, descriptor: Tensor | None = None, task: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of the support `[T, N, D]`, and the task statistics that queries need: a part of phi.

        They are what the backbone measures on the support, the descriptor if there is one, and `task`, which holds FiLM
        parameters for the backbone (see `metabox.nn.norm.Context`).
        """
        h, known = self.backbone.adapt(support.x, support.mask, task)
        phi = {f"backbone.{name}": value for name, value in known.items()}
        if self.condition and descriptor is not None:
            h, phi["descriptor"] = self.condition(h, descriptor), descriptor
        return h, phi

    def forward(self, x: Tensor, phi: dict[str, Tensor]) -> Tensor:
        """Features of queries `[T, M, D]`; phi may hold more than the task statistics."""
        prefix = "backbone."
        task = {name[len(prefix) :]: value for name, value in phi.items() if name.startswith(prefix)}
        h: Tensor = self.backbone(x, task)
        return self.condition(h, phi["descriptor"]) if self.condition else h
