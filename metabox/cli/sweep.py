"""Sweeps: recipes x options x seeds, each a run by `metabox train`, in processes on this machine or on Ray.

A finished run is not repeated, and a stopped one resumes, so the same command completes a sweep. When a sweep ends,
even by SIGKILL, its runs end too (see `metabox.cli.child`).
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from metabox.cli.child import LOG, execute
from metabox.files import write_json
from metabox.recipe import dump, find, make_parser, parse
from metabox.reports import manifest
from metabox.reports.seeds import combinations, scores_of_run

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    recipe: its name or path
    options: names and values that differ from the recipe
    seed: of the run
    folder: of the run
    plugins: command-line arguments that load the user's own modules
    """

    recipe: str
    options: tuple[tuple[str, str], ...]
    seed: int
    folder: Path
    plugins: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The command-line arguments of `metabox`."""
        ends = ["--seed", str(self.seed), "--out", str(self.folder)]
        return ["train", self.recipe, *self._chosen(), *self.plugins, *ends]

    def _chosen(self) -> list[str]:
        return [word for name, value in self.options for word in (f"--{name}", value)]

    def is_finished(self) -> bool:
        """Whether the folder holds exactly this run, finished. `metabox train` reports what it holds instead.

        Raises:
            ValueError: if an option is unknown or has a value of the wrong type.
        """
        parser = make_parser(find(self.recipe))
        text = dump(parser, parse(parser, [*self._chosen(), "--seed", str(self.seed)]))
        try:
            return manifest.is_finished(self.folder) and (self.folder / "recipe.yaml").read_text("utf-8") == text
        except (ValueError, OSError):
            return False


def grid(
    recipes: Sequence[str], options: Sequence[str], seeds: int, out: str | Path, plugins: Sequence[str] = ()
) -> list[Job]:
    """Every recipe with every combination of the options' values and every seed 0 ... seeds - 1.

    Args:
        recipes: names or paths.
        options: each `NAME=VALUE,VALUE,...`; a comma within brackets belongs to a value.
        seeds: runs of each combination.
        out: folder of the runs.
        plugins: command-line arguments that load the user's own modules, with absolute paths.

    Raises:
        ValueError: if a recipe does not exist, an option has another form, or there is no seed.
    """
    if seeds < 1 or not recipes:
        raise ValueError(f"expected RECIPE... and seeds of at least 1, got {list(recipes)} and {seeds}")
    axes = [_axis(option) for option in options]
    jobs = []
    for recipe, chosen, seed in itertools.product(recipes, itertools.product(*axes), range(seeds)):
        parts = [find(recipe).stem, *(f"{name}={value}" for name, value in chosen), f"seed{seed}"]
        folder = Path(out) / re.sub(r"[^\w.=,-]", "_", "-".join(parts))
        jobs.append(Job(recipe, chosen, seed, folder, tuple(plugins)))
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError(
            f"expected runs that differ, got duplicates in recipes {list(recipes)}, options {list(options)}"
        )
    return jobs


def _axis(option: str) -> list[tuple[str, str]]:
    """`a.b=1,2` -> `(a.b, 1), (a.b, 2)`."""
    name, equals, values = option.partition("=")
    chosen = re.split(r",(?![^\[{]*[\]}])", values)
    if not name or not equals or not all(chosen):
        raise ValueError(f"expected an option as NAME=VALUE,VALUE,..., got {option!r}; as in outer.lr=0.001,0.002")
    return [(name.lstrip("-"), value) for value in chosen]


def sweep(jobs: Sequence[Job], *, engine: Engine = "local", at_once: int = 1, gpus: float = 0) -> dict[str, Any]:
    """Run what is not finished yet, and return the scores of all runs; a failed run does not stop the others.

    Args:
        jobs: the runs, from `grid`.
        engine: "local" starts processes on this machine; "ray" starts tasks on a Ray cluster, or on this machine if
            none is running. A cluster needs metabox on every machine, and one file system for the folders.
        at_once: number of local processes at a time; on Ray, as many as its resources allow.
        gpus: GPUs that Ray gives to each run.

    Returns:
        `combinations`: for each recipe with its options, the mean and standard deviation over seeds of the validation
        scores that the weights were selected by, and of the test scores; `runs`: the same scores of each run, or why
        it has `failed`. Choosing by validation is fair, choosing by test is not.

    Raises:
        ValueError: if an option is unknown or has a value of the wrong type, before anything is started.
        ImportError: if Ray is requested and missing.
    """
    if engine not in get_args(Engine) or at_once < 1 or gpus < 0:
        raise ValueError(
            f"expected engine among {get_args(Engine)}, at_once of at least 1 and gpus of at least 0, got "
            f"{engine!r}, {at_once} and {gpus}"
        )
    missing = [job for job in jobs if not job.is_finished()]
    start = _on_ray(gpus) if engine == "ray" else _here(at_once)
    failed: dict[Job, str] = {}
    with closing(start(missing)) as ended:
        for done, (job, reason) in enumerate(ended, 1):
            print(f"{done}/{len(missing)} {job.folder.name}: {'failed' if reason else 'done'}", flush=True)
            if reason:
                failed[job] = reason
                print(f"metabox: {job.folder.name} failed: {reason}; see {job.folder / LOG}", file=sys.stderr)
    runs = [_row(job, failed.get(job)) for job in jobs]
    return {"combinations": combinations(runs), "runs": runs}


Start = Callable[[list[Job]], Generator[tuple[Job, str | None], None, None]]
"""Runs jobs, and yields each when it has ended, with the reason if it failed."""


def _here(at_once: int) -> Start:
    def start(todo: list[Job]) -> Generator[tuple[Job, str | None], None, None]:
        stopping, going = threading.Event(), set[subprocess.Popen[bytes]]()

        def started(process: subprocess.Popen[bytes]) -> None:
            going.add(process)
            if stopping.is_set():
                process.terminate()

        with ThreadPoolExecutor(at_once) as pool:  # threads only wait for the processes
            running = {pool.submit(execute, job.arguments(), str(job.folder), started): job for job in todo}
            try:
                for ended in as_completed(running):
                    yield running[ended], ended.result()
            finally:  # does nothing if all runs have ended
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(going):
                    process.terminate()  # the run writes a checkpoint

    return start


def _on_ray(gpus: float) -> Start:
    try:
        import ray
    except ImportError as error:
        raise ImportError('engine "ray" needs Ray: pip install ray; engine "local" needs nothing') from error
    if not ray.is_initialized():
        ray.init()  # the cluster of RAY_ADDRESS, or one on this machine
    remote = ray.remote(num_gpus=gpus, max_retries=2)(execute)  # a lost machine is replaced by another

    def start(todo: list[Job]) -> Generator[tuple[Job, str | None], None, None]:
        # Absolute folders: workers start in another directory.
        running = {remote.remote(_absolute(job), str(job.folder.absolute())): job for job in todo}
        while running:
            (ended,), _ = ray.wait(list(running))
            yield running.pop(ended), ray.get(ended)

    return start


def _absolute(job: Job) -> list[str]:
    """The job's arguments, with absolute paths of its folder, and of its recipe if that is a file."""
    found = {str(job.folder): str(job.folder.absolute())}
    if Path(job.recipe).is_file():
        found[job.recipe] = str(Path(job.recipe).absolute())
    return [found.get(word, word) for word in job.arguments()]


def _row(job: Job, failed: str | None) -> dict[str, Any]:
    about = {
        "recipe": job.recipe,
        "options": {name: _value(text) for name, text in job.options},
        "seed": job.seed,
        "folder": str(job.folder),
    }
    if failed is None:
        try:
            return about | scores_of_run(job.folder)
        except (ValueError, OSError) as error:  # a file was damaged in the meantime
            failed = " ".join(str(error).split())
    return about | {"failed": failed}


def _value(text: str) -> Any:
    """The value of an option parsed as JSON or as a number; else its text."""
    for read in (json.loads, float):
        with suppress(ValueError):
            json.dumps(value := read(text), allow_nan=False)  # JSON has no infinity
            return value
    return text


def write_summary(result: dict[str, Any], out: str | Path) -> Path:
    """Write what `sweep` returned to `sweep.json`.

    Raises:
        ValueError: if a run has failed, after the file is written.
    """
    path = Path(out) / "sweep.json"
    write_json(path, result)
    if failed := [run for run in result["runs"] if "failed" in run]:
        raise ValueError(
            f"expected every run to succeed, got {len(failed)} of {len(result['runs'])} that failed; {path} says why, "
            "and has the scores of the others. Fix the causes, and repeat the same command"
        )
    return path
