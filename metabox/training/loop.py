"""The outer loop: meta-train a learner across tasks. Reads from top to bottom."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from metabox.checks import checked
from metabox.files import write_json
from metabox.learners.base import Learner
from metabox.ranges import Whole
from metabox.targets import Target
from metabox.tasks.sampler import EpisodeSampler
from metabox.training.allocator import keep_freed_memory
from metabox.training.checkpoints import Checkpoints, load_tensors, load_weights
from metabox.training.description import Description, write_description
from metabox.training.environment import facts
from metabox.training.hook import Hook
from metabox.training.log import Metrics
from metabox.training.preflight import MakeLearner, MakeObjective, MakeWeighting, check, prepare
from metabox.training.processes import Stop, stop_signals, together
from metabox.training.progress import Meter, Progress, Window
from metabox.training.run_folder import owned
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
    hooks: list[Hook] | None = None,
    seed: Whole = 0,
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
        hooks: what looks at the run while it trains, and writes into its folder `hooks`.
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
    from metabox.training.engine import engine_of  # takes as long as torch, and help does without

    out = Path(out)
    fabric = engine_of(outer)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    prepared = prepare(
        fabric, tasks, learner, outer, evaluation, objective, weighting, target, hooks, seed, ("train", "val")
    )
    leads = fabric.is_global_zero
    with owned(out, leads):
        # What is trained, and what a resumed run goes on from.
        step = Step(fabric, prepared)
        checkpoints = Checkpoints(out / "checkpoints", prepared.settings)
        progress = Progress.read(checkpoints.resume(step.saved, step.optimizer), out)
        if progress.best:
            load_tensors(out / BEST)  # what is damaged is named before the steps that are left
        finished = progress.finished(outer)
        metrics = Metrics(out, progress.step, enabled=leads and not finished)
        if metrics.enabled:
            about = facts() | {"device": str(fabric.device), "precision": fabric.strategy.precision.precision}
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
            mininterval=0.5 if sys.stderr.isatty() else 20,  # a log file wants few lines
            disable=not leads,
        )
        with bar, stop_signals() as signals, together(fabric.world_size):
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
                    bar.set_postfix({name: f"{means[name]:.4g}" for name in shown if name in means}, refresh=False)
                    progress.window = Window()
                if validates:
                    validate(fabric, prepared, step, progress, metrics, out)
                    finished = progress.finished(outer)
                if validates or stopped:  # then no validation: a run that was stopped must end as one that was not
                    checkpoints.save(done, step.saved, step.optimizer, progress.as_json(), write=leads)
                    meter.start()
                if stopped and not finished:
                    raise KeyboardInterrupt(f"stopped after step {done}; the same command goes on from there")

        fabric.barrier()  # until the file is there
        best = learner(prepared.spec).to(fabric.device) if outer.sharded else step.kept.learner
        load_weights(best, out / BEST)
        return best.eval()
