"""The outer loop: meta-train a learner across tasks. Reads from top to bottom."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from metabox.evaluation import evaluate
from metabox.files import write_json
from metabox.learners.base import Learner
from metabox.multitask.transfer import CosineRecorder
from metabox.nn.towers import shared_parameters
from metabox.objectives import Objective, QueryLoss
from metabox.seeding import step_seed
from metabox.targets import Target
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.allocator import keep_freed_memory
from metabox.training.checkpoints import Checkpoints, load_tensors, load_weights, save_tensors
from metabox.training.description import Description, write_description
from metabox.training.engine import compiled, compiles, engine_of, stop_signals, together
from metabox.training.environment import facts
from metabox.training.log import Metrics, Window, check_progress
from metabox.training.optimizers import make_optimizer
from metabox.training.preflight import MakeLearner, MakeObjective, MakeWeighting, Prepared, check, prepare
from metabox.training.run_folder import owned
from metabox.training.settings import OuterLoop
from metabox.training.sharding import unsharded, whole
from metabox.training.weighting import losses_by_task

__all__ = ["MakeLearner", "MakeObjective", "MakeWeighting", "check", "run"]

log = logging.getLogger(__name__)


def run(
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop = OuterLoop(),  # noqa: B008  # frozen
    *,
    evaluation: EpisodeSampler | None = None,
    objective: MakeObjective | None = None,
    weighting: MakeWeighting | None = None,
    target: Target | None = None,
    seed: int = 0,
    out: str | Path,
) -> Learner:
    """Meta-train a learner and return it in evaluation mode, with the weights that were best in validation.

    A run that was stopped or killed continues from its last checkpoint when it is called again with the same
    arguments, and ends with the same weights as one that was not (same device, same versions).

    Args:
        tasks: where the training tasks come from.
        learner: builds the learner from the kind of task; a class will do.
        outer: the settings of the outer loop.
        evaluation: where validation tasks come from; by default like the training tasks.
        objective: what is minimised; by default `QueryLoss`.
        weighting: how the losses of named tasks, or of a target's parts, become one step, built from their number; by
            default by their plain sum, which is the mean loss of the batch.
        target: how predictions of y are made and scored, instead of the sampler's own target: `Bars` for reals, or
            `Reals` with another noise. Of the same kind and size.
        seed: of the first weights, the training tasks and dropout. Validation tasks stay the same.
        out: the folder of the run: checkpoints, metrics.jsonl, TensorBoard events, environment.json, and
            model.json with all that the model needs beside its weights.

    Raises:
        ValueError: if the arguments do not fit together or to this machine, before anything is written; or `out` holds
            another run, or another process is at work in it.
        OSError: if the disk takes no more, naming the file; the last checkpoint stays.
        ConnectionError: where another device's process ended, or kept this one waiting for longer than `timeout`.
        FloatingPointError: after `max_skipped` steps in a row without a finite loss; the last good checkpoint stays.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    # None, for jsonargparse forgets the class_path of a value with init_args beside a class as the default.
    evaluation, objective, out = evaluation or tasks, objective or QueryLoss, Path(out)
    fabric = engine_of(outer)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    prepared = prepare(fabric, tasks, learner, outer, evaluation, objective, weighting, target, seed, ("train", "val"))
    with owned(out, fabric.is_global_zero):
        return _train(fabric, prepared, tasks, learner, outer, evaluation, objective, seed, out)


def _train(
    fabric: Fabric,
    prepared: Prepared,
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop,
    evaluation: EpisodeSampler,
    objective: MakeObjective,
    seed: int,
    out: Path,
) -> Learner:
    spec, model, weigh, episodes, per_batch, settings = prepared
    precision = fabric.strategy.precision

    # The model, its optimizer and its average.
    if compiles(outer, fabric.device):
        graphs = outer.compile == "graphs"
        module = fabric.setup_module(compiled(model, episodes, precision, graphs))
    else:
        module = fabric.setup_module(model)
    groups: list[dict[str, Any]] = [{"params": list(model.parameters())}]
    if weigh and (learned := list(weigh.parameters())):
        groups.append({"params": learned, "weight_decay": 0.0})
    optimizer = cast(torch.optim.Optimizer, fabric.setup_optimizers(make_optimizer(outer, groups)))
    average = (
        AveragedModel(model, multi_avg_fn=_moving_average(outer.average), use_buffers=True) if outer.average else None
    )
    kept = cast(Objective, average.module) if average else model
    shared = list(shared_parameters(model.learner).values())
    recorder = CosineRecorder(model, shared, out / "cosines.json", outer.cosines_every) if outer.cosines_every else None

    # What a resumed run goes on from.
    checkpoints = Checkpoints(out / "checkpoints", settings)
    saved: dict[str, nn.Module] = {"model": model}
    saved |= {name: part for name, part in (("average", average), ("weighting", weigh)) if part and part.state_dict()}
    state = check_progress(checkpoints.resume(saved, optimizer) or deepcopy(NOTHING_YET), out)
    if state["best"]:
        load_tensors(out / "best.safetensors")  # what is damaged is named before the steps that are left

    def validate(step: int) -> None:
        for buffer in kept.buffers() if fabric.world_size > 1 else ():
            torch.distributed.broadcast(buffer, src=0)  # each rank's batch norm has seen other tasks
        with unsharded(model):
            scores = evaluate(
                kept.learner,
                evaluation,
                split="val",
                n_tasks=outer.n_validation,
                objective=objective,
                distributed=fabric.world_size > 1,
            )
        module.train()
        value = scores.mean("accuracy") if "accuracy" in scores.per_task else -scores.mean("nll")
        state["since_best"] += 1
        if state["best"] is None or value > state["best"]["value"]:
            state.update(best={"step": step, "value": value}, since_best=0)
            weights = whole(kept.learner.state_dict())  # all devices together: each has found the same scores
            if fabric.is_global_zero:
                save_tensors(out / "best.safetensors", weights, step=step, seconds=state["seconds"])
        metrics.write(step, seconds=state["seconds"], val=scores.means())

    def save(step: int) -> None:
        state.update(step=step, window=asdict(window))
        checkpoints.save(step, saved, optimizer, state, write=fabric.is_global_zero)

    def backward(loss: Tensor) -> None:
        fabric.backward(loss / outer.accumulate)

    def finished() -> bool:
        return state["step"] >= outer.steps or 0 < outer.patience <= state["since_best"]

    metrics = Metrics(out, state["step"], enabled=fabric.is_global_zero and not finished())
    if metrics.enabled:
        about = facts() | {"device": str(fabric.device), "precision": precision.precision}
        write_json(out / "environment.json", about, hashed=True)
        names = {**tasks.class_names(), **evaluation.class_names()}
        write_description(out, Description(spec, tasks.preprocessing, names))

    # The loop.
    window = Window(**state["window"])
    module.train()
    bar = tqdm(
        total=outer.steps,
        initial=state["step"],
        unit="step",
        mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file wants few lines
        disable=not fabric.is_global_zero,
    )
    with bar, stop_signals() as stop, together(fabric.world_size):
        for step in range(outer.steps if finished() else state["step"], outer.steps):
            started = time.perf_counter()
            torch.manual_seed(step_seed(seed, step, fabric.global_rank))  # dropout: a function of the step too
            for group in optimizer.param_groups:
                group["lr"] = outer.lr_at(step)

            buffers = [*model.buffers(), *(weigh.buffers() if weigh else ())]
            before = [buffer.clone() for buffer in buffers]
            totals: dict[str, Tensor] = {}
            for i in range(outer.accumulate):
                first = (i * fabric.world_size + fabric.global_rank) * per_batch
                episodes = tasks.sample(Place(per_batch, "train", index=step, first=first, seed=seed), fabric.device)
                if recorder and i == 0 and fabric.is_global_zero:
                    recorder(step, episodes)
                torch.compiler.cudagraph_mark_step_begin()  # what the last batch gave out may be overwritten
                with fabric.no_backward_sync(module, enabled=i + 1 < outer.accumulate):
                    if weigh is None:
                        result = module(episodes)
                        backward(result["loss"].mean())
                    else:
                        with fabric.autocast():  # Fabric's module lets nobody else take gradients
                            result = model(episodes)
                        weigh.backward(*losses_by_task(spec, result, episodes.task), shared, backward)
                for name, value in result.items():  # scores, which have no gradient, may be missing: NaN
                    mean = value.detach().mean() if value.requires_grad else value.nanmean()
                    totals[name] = totals.get(name, 0) + mean / outer.accumulate
            if fabric.world_size > 1:
                totals["stop"] = torch.tensor(float(bool(stop)), device=fabric.device)  # all stop at the same step
                totals = cast(dict[str, Tensor], fabric.all_reduce(totals))
                stopped = bool(totals.pop("stop"))
            else:
                stopped = bool(stop)
            norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), outer.clip))

            numbers = _as_floats({**totals, "gradient_norm": norm})
            if math.isfinite(numbers["loss"] + numbers["gradient_norm"]):
                optimizer.step()
                if average:
                    average.update_parameters(model)
                state["skipped_in_a_row"] = 0
                window.add(numbers, outer.n_tasks, time.perf_counter() - started)
            else:
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)  # batch norm has seen the bad batch
                state["skipped_in_a_row"] += 1
                state["skipped"] += 1
                if state["skipped_in_a_row"] == outer.max_skipped:
                    good = (
                        f"the checkpoint of step {state['step']} in {out} is good"
                        if state["step"]
                        else "no checkpoint yet"
                    )
                    raise FloatingPointError(
                        f"the loss or its gradient was not finite in {outer.max_skipped} steps in a row, "
                        f"up to step {step}; {good}. Lower lr or clip, or use precision 32"
                    )
            optimizer.zero_grad()
            state["seconds"] += time.perf_counter() - started

            bar.update()
            if (step + 1) % LOG_EVERY == 0 and window.steps:
                means = window.means()
                metrics.write(
                    step + 1, seconds=state["seconds"], lr=outer.lr_at(step), skipped=state["skipped"], train=means
                )
                shown = {name: f"{means[name]:.4g}" for name in ("loss", "accuracy", "tasks_per_s") if name in means}
                bar.set_postfix(shown, refresh=False)
                window = Window()
            if (step + 1) % outer.validate_every == 0 or step + 1 == outer.steps:
                validate(step + 1)
                save(step + 1)
                if finished():
                    break
            elif stopped:  # no validation here: a run that was stopped must end as one that was not
                save(step + 1)
            if stopped:
                raise KeyboardInterrupt(f"stopped after step {step + 1}; the same command goes on from there")

    fabric.barrier()  # until the file is there
    best = learner(spec).to(fabric.device) if outer.sharded else kept.learner
    load_weights(best, out / "best.safetensors")
    return best.eval()


LOG_EVERY = 50
NOTHING_YET: dict[str, Any] = {
    "step": 0,
    "best": None,
    "since_best": 0,
    "skipped": 0,
    "skipped_in_a_row": 0,
    "seconds": 0.0,
    "window": {},
}


def _as_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """All numbers of a step at once: on a GPU, reading each would wait for each."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], n: Tensor) -> None:
        # The early average is short, or the first random weights would stay in it for long.
        weight = 1 - min(decay, (1 + int(n)) / (10 + int(n)))
        for average, value in zip(averages, values, strict=True):
            average.lerp_(value, weight) if average.is_floating_point() else average.copy_(value)

    return update
