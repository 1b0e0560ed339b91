"""One step of the outer loop: sample, accumulate, weigh, clip, and skip if not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from metabox.episodes import Episodes
from metabox.nn.towers import shared_parameters
from metabox.objectives import Objective
from metabox.seeding import step_seed
from metabox.tasks.place import Place
from metabox.training.average import Average
from metabox.training.compiling import compiled, compiles
from metabox.training.graphs import Captured, Outcome, recorder_of
from metabox.training.hook import Hook
from metabox.training.optimizers import make_optimizer, parameter_groups, set_lr
from metabox.training.preflight import Prepared
from metabox.training.sharding import full_tensors, local
from metabox.training.weighting import losses_by_task

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Step:
    """What a run trains, and how it makes a step. No step waits for the device, unless a weighting does.

    Args:
        fabric: launched.
        prepared: the run.
    """

    def __init__(self, fabric: Fabric, prepared: Prepared) -> None:
        self.fabric, self.run, self.model, self.weighting = fabric, prepared, prepared.model, prepared.weighting
        outer, model = prepared.outer, prepared.model
        module: nn.Module = model
        if compiles(outer, fabric.device):
            module = compiled(model, prepared.episodes, fabric.strategy.precision)
        self.module = fabric.setup_module(module)
        groups = parameter_groups(model, muon=outer.optimizer == "muon")
        if self.weighting and (learned := list(self.weighting.parameters())):
            groups.append({"params": learned, "weight_decay": 0.0})
        made = make_optimizer(outer, groups)
        self.optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(made))
        self.average = Average(model, outer.average) if outer.average else None
        self.kept = cast(Objective, self.average.module) if self.average else model
        self.shared = list(shared_parameters(model.learner).values())
        parts: dict[str, nn.Module | None] = {"model": model, "average": self.average, "weighting": self.weighting}
        self.saved = {name: part for name, part in parts.items() if part is not None and part.state_dict()}
        self.undo = Undo(made, [model, *([self.weighting] if self.weighting else [])])
        recorder = recorder_of(fabric.device) if outer.compile == "graphs" else None
        self.captured = Captured(self.train, self.optimizer.zero_grad, recorder) if recorder else None

    def __call__(self, step: int, hooks: Sequence[Hook] = ()) -> Outcome:
        """Make a step, counted from 0.

        Returns:
            Whether the loss and its gradient were finite, `[]`; if not, nothing has changed. And the metrics: means
            over the tasks of the step of what the objective returns, and the norm of the gradient, each `[]`.
        """
        outer, fabric = self.run.outer, self.fabric
        # So that dropout is a function of the step.
        seed_generators(step_seed(self.run.seed, step, fabric.global_rank), fabric.device)
        set_lr(self.optimizer, outer.lr_at(step))
        batches = self.batches(step, hooks)
        return self.captured(list(batches)) if self.captured else self.train(batches)

    def train(self, batches: Iterable[Episodes]) -> Outcome:
        """All of a step that happens on the device alone, from its batches on; see `__call__`."""
        outer, fabric = self.run.outer, self.fabric
        self.undo.save()
        parts: list[dict[str, Tensor]] = []
        for i, episodes in enumerate(batches):
            with fabric.no_backward_sync(self.module, enabled=i + 1 < outer.accumulate):
                parts.append(task_means(self.gradients(episodes)))
        totals = parts[0]
        if len(parts) > 1:
            totals = {name: torch.stack([part[name] for part in parts]).mean(0) for name in totals}
        if fabric.world_size > 1:  # one message for all; Fabric's own would be a barrier and a message for each
            means = torch.stack(list(totals.values()))
            torch.distributed.all_reduce(means)
            totals = dict(zip(totals, (means / fabric.world_size).unbind(), strict=True))
        norm = full_tensors(torch.nn.utils.clip_grad_norm_(self.model.parameters(), outer.clip))
        good = totals["loss"].isfinite() & norm.isfinite()
        self.update(good)
        return good, totals | {"gradient_norm": norm}

    def batches(self, step: int, hooks: Sequence[Hook]) -> Iterator[Episodes]:
        """This process's batches of a step; hooks observe the first one."""
        for i in range(self.run.outer.accumulate):
            episodes = self.sample(step, i)
            for hook in hooks if i == 0 else ():
                hook.before_step(step, episodes)
            yield episodes

    def sample(self, step: int, i: int) -> Episodes:
        """This process's tasks of batch i of a step."""
        run, fabric = self.run, self.fabric
        first = (i * fabric.world_size + fabric.global_rank) * run.per_batch
        return run.tasks.sample(Place(run.per_batch, "train", index=step, first=first, seed=run.seed), fabric.device)

    def gradients(self, episodes: Episodes) -> dict[str, Tensor]:
        """Add the gradients of a batch to `.grad`; returns what the objective does."""
        if self.weighting is None:
            result: dict[str, Tensor] = self.module(episodes)
            self.backward(result["loss"].mean())
            return result
        with self.fabric.autocast():  # not through Fabric's module, which allows no other way to take gradients
            result = self.model(episodes)
        losses, share = losses_by_task(self.run.spec, result, episodes.task)
        if "penalty" in result:  # it belongs to no part, so no weighting changes it
            self.fabric.backward(result["penalty"].mean() / self.run.outer.accumulate, retain_graph=True)
        self.weighting.backward(losses, share, self.shared, self.backward)
        return result

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss / self.run.outer.accumulate)

    def update(self, good: Tensor) -> None:
        """Make the optimizer's step, if the gradient is good."""
        self.undo.before_update(good)
        self.optimizer.step()
        self.undo.restore_unless(good)
        if self.average:
            self.average.update(self.model, good)
        self.optimizer.zero_grad()


def task_means(result: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over tasks, `[T]` -> `[]`. Scores, which have no gradient, may be NaN, missing; losses may not."""
    means: dict[str, Tensor] = {}
    for mean, graded in ((torch.mean, True), (torch.nanmean, False)):
        names = [name for name, value in result.items() if value.requires_grad == graded]
        if names:  # one operation for all: each alone takes longer to call than to compute
            means |= zip(names, mean(torch.stack([result[name].detach() for name in names]), 1).unbind(), strict=True)
    return {name: means[name] for name in result}


class Undo:
    """Restores what a bad step has changed. The decision stays on the device, so that nothing waits for it.

    Buffers are saved, for batch norm has seen the bad batch. Fused optimizers skip the update of weights and moments if
    they are told so; for other optimizers these are saved too.

    Args:
        optimizer: torch's own.
        modules: what is trained.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]) -> None:
        self.optimizer, self.fused = optimizer, bool(optimizer.defaults.get("fused"))
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        self.before: list[tuple[Tensor, Tensor]] = []

    def save(self) -> None:
        """Must be called before the forward pass."""
        self.before = [(buffer, buffer.clone()) for buffer in self.buffers]

    @torch.no_grad()
    def before_update(self, good: Tensor) -> None:
        if self.fused:
            self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]
        else:
            self.before += [(tensor, tensor.clone()) for tensor in self._trained()]

    @torch.no_grad()
    def restore_unless(self, good: Tensor) -> None:
        """Must be called after the optimizer's step."""
        known = {id(tensor) for tensor, _ in self.before}
        if not self.fused:  # moments that the step has created start at zero
            self.before += [(t, torch.zeros_like(t)) for t in self._trained() if id(t) not in known]
        for tensor, value in self.before:
            torch.where(good, tensor, value, out=tensor)
        self.before = []

    def _trained(self) -> list[Tensor]:
        """Weights with a gradient, and their moments."""
        weights = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        moments = [m for p in weights for m in self.optimizer.state[p].values() if isinstance(m, Tensor)]
        return [local(tensor) for tensor in [*weights, *moments]]


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of one device; `torch.manual_seed` takes longer, for it seeds them all."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
