"""A backbone that was trained in another run."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from torch import Tensor

from metabox.nn.backbones import Backbone
from metabox.nn.norm import Context
from metabox.ranges import Shape


class FromRun(Backbone):
    """The backbone of a finished run, with its best weights, to continue from.

    Its architecture is that of the run's recipe, so no other option is needed. The weights are read as safetensors and
    cannot run code; `origin` gives the run and a hash of its weights, and every result contains it.

    Args:
        x_shape: shape of one input.
        run: the run folder, which must not move as long as this backbone is used.
        freeze: do not train its weights; batch norm statistics are still updated in training.

    Raises:
        ValueError: if there is no finished run, its learner has no single backbone, or the backbone takes other inputs.
    """

    data_arguments = ("run",)

    def __init__(self, x_shape: Shape, run: str, freeze: bool = False) -> None:
        super().__init__(x_shape)
        from metabox.recipe import load_run  # here, because it imports backbones itself

        learner, _ = load_run(run)
        inner = getattr(getattr(learner, "embed", None), "backbone", None)
        if not isinstance(inner, Backbone):
            raise ValueError(f"expected a run whose learner has one backbone, got {type(learner).__name__} in {run}")
        if inner.x_shape != self.x_shape:
            raise ValueError(
                f"expected a backbone for inputs {list(x_shape)}, got one for {list(inner.x_shape)} in {run}"
            )
        weights = (Path(run) / "best.safetensors").read_bytes()
        self.origin = f"{Path(run).name} ({blake2b(weights, digest_size=8).hexdigest()})"
        self.inner = inner.train().requires_grad_(not freeze)
        self.out_features, self.map_shape, self.norm = inner.out_features, inner.map_shape, inner.norm

    def features(self, x: Tensor, context: Context) -> Tensor:
        return self.inner.features(x, context)
