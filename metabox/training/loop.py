"""The outer loop: meta-train a learner across tasks."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm.auto import tqdm

from metabox.checks import checked
from metabox.files import write_json
from metabox.learners.base import Learner
from metabox.ranges import Whole
from metabox.targets import Target
from metabox.targets.spec import Scale
from metabox.tasks.sampler import EpisodeSampler
from metabox.tensors import load_tensors, load_weights
from metabox.training.allocator import keep_freed_memory
from metabox.training.checkpoints import Checkpoints
from metabox.training.description import Description, write_description
from metabox.training.environment import collect_environment
from metabox.training.hook import Hook
from metabox.training.log import Metrics
from metabox.training.preflight import MakeLearner, MakeObjective, MakeWeighting, check, prepare
from metabox.training.processes import Stop, peer_failures, stop_signals
from metabox.training.progress import Meter, Progress, Window
from metabox.training.run_folder import owned
from metabox.training.selection import Select
from metabox.training.settings import OuterLoop
from metabox.training.step import Step
from metabox.training.validation import BEST, validate

__all__ = ["MakeLearner", "MakeObjective", "MakeWeighting", "check", "run"]

LOG_EVERY = 50


@checked
def run(
    tasks: EpisodeSampler,
    learner: MakeLearner,
    outer: OuterLoop = OuterLoop(),  # noqa: B008  # frozen
    *,
    evaluation: EpisodeSampler | None = None,
    objective: MakeObjective | None = None,
    weighting: MakeWeighting | None = None,
    target: Target | None = None,
    scale: Scale = "training",
    hooks: list[Hook] | None = None,
    select: Select | None = None,
    seed: Whole = 0,
    out: str | Path,
) -> Learner:
    """Meta-train a learner and return it in evaluation mode, with the weights that were best in validation.

    Calling it again with the same arguments resumes a stopped or killed run from its last checkpoint; the run ends
    with the same weights as an uninterrupted one (same device, same versions).

    Args:
        tasks: sampler of the training tasks.
        learner: builds the learner from a `TaskSpec`; a class will do.
        outer: settings of the outer loop.
        evaluation: sampler of the validation tasks; by default that of the training tasks.
        objective: what is minimised; by default `QueryLoss`.
        weighting: how the losses of named tasks, or of a target's parts, become one step; built from their number. By
            default their plain sum, which is the mean loss of the batch.
        target: how y is predicted and scored, instead of the sampler's own target: `Bars` for reals, or `Reals` with
            another noise. Of the same kind and size.
        scale: by whose statistics the learner brings vectors x and real y to location 0 and scale 1 (see `TaskSpec`):
            those of the "training" tasks, of each task's "support", or "none".
        hooks: observers of the run, which write into its folder `hooks`.
        select: which tasks' or parts' validation score, and which metric, chooses the weights that are kept; by default
            accuracy or else nll, over all tasks.
        seed: of the initial weights, the training tasks and dropout. Validation tasks stay the same.
        out: the run folder: checkpoints, metrics.jsonl, TensorBoard events, environment.json, and model.json with
            all that the model needs beside its weights.

    Raises:
        ValueError: if the arguments do not fit together or this machine, before anything is written; or if `out` holds
            another run, or another process is using it.
        OSError: if the disk is full; the message names the file, and the last checkpoint stays.
        ConnectionError: if another process of the run ended, or kept this one waiting for longer than `timeout`.
        FloatingPointError: after `max_skipped` steps in a row without a finite loss; the last good checkpoint stays.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the checkpoint is written.
    """
    from metabox.training.engine import engine_of, set_precision  # as slow to import as torch; --help does without it

    out = Path(out)
    fabric = engine_of(outer)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    prepared = prepare(
        *(fabric, tasks, learner, outer, evaluation, objective, weighting, target, scale, hooks, select, seed),
        ("train", "val"),
    )
    leads = fabric.is_global_zero
    with owned(out, leads):
        # What is trained, and where a resumed run starts.
        checkpoints = Checkpoints(out / "checkpoints", prepared.settings)
        precision = set_precision(fabric, outer, prepared.model.learner, checkpoints.recorded("precision"))
        checkpoints.settings["precision"] = precision
        step = Step(fabric, prepared)
        progress = Progress.read(checkpoints.resume(step.saved, step.optimizer), out)
        if progress.best:
            load_tensors(out / BEST)  # a damaged file is reported now, not after the remaining steps
        finished = progress.finished(outer)
        metrics = Metrics(out, progress.step, enabled=leads and not finished)
        if metrics.enabled:
            about = collect_environment() | {
                "device": str(fabric.device),
                "precision": fabric.strategy.precision.precision,
            }
            write_json(out / "environment.json", about, hashed=True)
            write_description(out, Description.of(prepared.spec, prepared.tasks, prepared.evaluation))
        watching = prepared.hooks if metrics.enabled else []
        for hook in watching:
            hook.begin(step.model, out / "hooks", progress.step)

        # The loop.
        step.module.train()
        bar = tqdm(
            total=outer.steps,
            initial=progress.step,
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 20,  # few lines in a log file
            disable=not leads,
        )
        numbers: dict[str, str] = {}  # beside the bar
        with bar, stop_signals() as signals, peer_failures(fabric.world_size):
            stop, meter = Stop(fabric, signals), Meter(progress, outer, checkpoints)
            while not finished:
                meter.add(*step(progress.step, watching))
                stopped = stop()
                bar.update()
                done = progress.step
                validates = done % outer.validate_every == 0 or done == outer.steps
                if validates or stopped or done % LOG_EVERY == 0:
                    meter.read()
                if done % LOG_EVERY == 0 and progress.window.steps:
                    means = progress.window.means()
                    lr, skipped = outer.lr_at(done - 1), progress.skipped
                    metrics.write(done, seconds=progress.seconds, lr=lr, skipped=skipped, train=means)
                    shown = ("loss", "accuracy", "tasks_per_s")
                    numbers |= {name: f"{means[name]:.4g}" for name in shown if name in means}
                    bar.set_postfix(numbers, refresh=False)
                    progress.window = Window()
                if validates:
                    scores = validate(fabric, prepared, step, progress, metrics, out)
                    score, value = prepared.select.score(prepared.spec, scores)
                    numbers[f"val_{score}"] = f"{value:.4g}"
                    bar.set_postfix(numbers)
                    finished = progress.finished(outer)
                if validates or stopped:  # stopping adds no validation: an interrupted run must not differ in the end
                    checkpoints.save(done, step.saved, step.optimizer, progress.as_json(), write=leads)
                    meter.start()
                if stopped and not finished:
                    raise KeyboardInterrupt(f"stopped after step {done}; the same command goes on from there")

        fabric.barrier()  # until the file is written
        best = learner(prepared.spec).to(fabric.device) if outer.sharded else step.kept.learner
        load_weights(best, out / BEST)
        return best.eval()
