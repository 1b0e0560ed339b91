"""Pre-trained backbones: the classification networks of torchvision."""

from __future__ import annotations

import difflib
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.nn.backbones import Backbone, image_shape, reads_initial_weights
from metabox.nn.norm import Context
from metabox.ranges import Count, Shape


class TorchVision(Backbone):
    """Any classification network of torchvision, without its last layer.

    Grey images are repeated to three channels. With `weights`, colours are normalised by the mean and standard
    deviation of their training. Its batch norm is that of torchvision, with running statistics in evaluation.

    Args:
        x_shape: `(channels, height, width)`, with one channel or three.
        name: the network, such as "resnet18" or "vit_b_16" (`torchvision.models.list_models()` lists all).
        weights: pre-trained weights by their torchvision name, such as "IMAGENET1K_V1", or "DEFAULT" for the best
            available; None for none. torchvision downloads them once.
        freeze: do not change its weights and the statistics of its batch norm.
        size: side of the square that images are resized to; None leaves them unchanged.

    Raises:
        ValueError: if inputs are not images with one channel or three, the network or its weights are unknown, the
            network does not accept the size, or the weights are not on this machine and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        x_shape: Shape,
        name: str = "resnet18",
        weights: str | None = None,
        freeze: bool = False,
        size: Count | None = None,
    ) -> None:
        super().__init__(x_shape)
        channels, _, _ = image_shape(self)
        if channels not in (1, 3):
            raise ValueError(f"expected images of 1 or 3 channels for a network of torchvision, got x_shape {x_shape}")
        self.name, self.freeze, self.size = name, freeze, size
        self.network, preset = _load(name, weights)
        self.origin = f"torchvision's {name} {weights}: data from elsewhere" if weights else None
        self.norm = "batch" if any(isinstance(m, nn.BatchNorm2d) for m in self.network.modules()) else "none"
        self.register_buffer("mean", _colour(preset.mean if preset else [0.0] * 3), persistent=False)
        self.register_buffer("std", _colour(preset.std if preset else [1.0] * 3), persistent=False)
        self.to(memory_format=torch.channels_last)
        self.network.requires_grad_(not freeze)
        self.out_features = self._find_out_features()
        self.train()

    def train(self, mode: bool = True) -> TorchVision:
        super().train(mode)
        self.network.train(mode and not self.freeze)
        return self

    def features(self, x: Tensor, context: Context) -> Tensor:
        if self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = ((x - self.mean) / self.std).contiguous(
            memory_format=torch.channels_last
        )  # grey broadcasts to three channels
        h: Tensor = self.network(x)
        return h

    def _find_out_features(self) -> int:
        self.eval()
        try:
            with torch.no_grad():
                return self.features(torch.zeros(1, *self.x_shape), Context()).shape[1]
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f"expected images of a size that {self.name} takes, got {self.size or self.x_shape} ({error}); "
                "set size, to 224 say"
            ) from error


def _load(name: str, weights: str | None) -> tuple[nn.Module, Any]:
    """A network without its last layer, and the preprocessing of its weights, if it has weights."""
    from torchvision import models  # slow to import

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5) or known
        raise ValueError(f"expected a classification network of torchvision, got {name!r}; near are {', '.join(near)}")
    chosen = None
    if weights is not None:
        there = models.get_model_weights(name).__members__
        if weights not in there:
            raise ValueError(f"expected weights among {', '.join(there)} for {name}, got {weights!r}")
        chosen = there[weights]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about the initial weights of two old networks
            network = models.get_model(name, weights=chosen if reads_initial_weights() else None)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        if chosen is None:
            raise
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
        raise ValueError(
            f"expected the weights {chosen} as {path}, or a network connection to download them, got: {error}. "
            f"Download {chosen.url} elsewhere and put it there, or set TORCH_HOME to the folder that has "
            f"hub/checkpoints/{path.name} in it"
        ) from error
    for auxiliary in ("aux1", "aux2", "AuxLogits"):  # auxiliary classifiers of GoogLeNet and Inception
        if hasattr(network, auxiliary):
            setattr(network, auxiliary, None)
            network.aux_logits = False
    *_, last = (path for path, module in network.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d)))
    network.set_submodule(last, nn.Identity())
    return network, chosen.transforms() if chosen else None


def _colour(values: list[float]) -> Tensor:
    return torch.tensor(values).view(3, 1, 1)
