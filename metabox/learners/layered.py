"""The base of recurrent learners with several layers, whose states have a fixed size."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metabox.episodes import Examples
from metabox.learners.base import Phi
from metabox.learners.recurrent import Recurrent
from metabox.nn.backbones import MakeBackbone
from metabox.nn.label_code import LabelKind
from metabox.nn.metric import exact
from metabox.nn.mixer import Mixer, RMSNorm
from metabox.ranges import Count
from metabox.targets import TaskSpec


class Layered(Recurrent):
    """A recurrent learner of residual layers: h <- h + mixer(norm(h)), from a linear map of (x_t, y_{t-1}).

    Mixers compute whole sequences at once. A query is one step through all layers from the state after the support: it
    decays, writes and reads as any step does, and what it writes is not kept.
    """

    @abstractmethod
    def __init__(
        self,
        spec: TaskSpec,
        backbone: MakeBackbone | None,
        labels: LabelKind,
        truncate: Count | None,
        width: Count,
        mixers: Sequence[Mixer],
    ) -> None:
        super().__init__(spec, backbone, labels, truncate)
        self.token = nn.Linear(self.in_size, width)
        self.mixers = nn.ModuleList(mixers)
        self.norms = nn.ModuleList(RMSNorm(width) for _ in mixers)
        self.readout = nn.Sequential(RMSNorm(width), nn.Linear(width, self.labels.out_size))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: the state of each layer, `0.window [T, 3, channels]` and so on, of a size that no support changes.

        And the last label, not yet read, `label [T, L]`; the task statistics.
        """
        return super().infer(support, descriptor, classes)

    def start(self, like: Tensor) -> Phi:
        return {f"{i}.{name}": part for i, _, mixer in self._layers() for name, part in mixer.start(like).items()}

    def project(self, inputs: Tensor) -> Tensor:
        return exact(self.token(inputs))

    def step(self, state: Phi, projected: Tensor) -> tuple[Tensor, list[Any]]:
        h, taken = projected, []
        for i, norm, mixer in self._layers():
            mixed, more = mixer.step(_of_layer(state, i), norm(h))
            h = h + mixed
            taken.append(more)
        return h, taken

    def advance(self, state: Phi, taken: list[Any], real: Tensor) -> Phi:
        after: Phi = {}
        for (i, _, mixer), of_layer in zip(self._layers(), taken, strict=True):
            new = mixer.advance(_of_layer(state, i), of_layer, real)
            after |= {f"{i}.{name}": part for name, part in new.items()}
        return after

    def scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        h, after = self.project(inputs), Phi()
        for i, norm, mixer in self._layers():
            mixed, new = mixer.scan(_of_layer(state, i), norm(h), real)
            h = h + mixed
            after |= {f"{i}.{name}": part for name, part in new.items()}
        return h, after

    def _scan(self, state: Phi, inputs: Tensor, real: Tensor) -> tuple[Tensor, Phi]:
        if self.truncate is None or not torch.is_grad_enabled():
            return self.scan(state, inputs, real)
        # Of a sequence that is cut into pieces, one at a time is in memory.
        cut: tuple[Tensor, Phi] = checkpoint(self.scan, state, inputs, real, use_reentrant=False)
        return cut

    def _layers(self) -> Iterator[tuple[int, nn.Module, Mixer]]:
        for i, (norm, mixer) in enumerate(zip(self.norms, self.mixers, strict=True)):
            yield i, norm, cast(Mixer, mixer)


def _of_layer(state: Phi, i: int) -> Phi:
    prefix = f"{i}."
    return {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
