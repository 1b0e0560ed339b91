"""Sweeps: recipes x options x seeds, each a run of its own that `metabox train` makes, in processes here or on Ray.

A finished run is not run again, and one that was stopped goes on, so the same command completes a sweep.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from metabox.files import read_json, write_json
from metabox.recipe import find
from metabox.reports import manifest

Engine = Literal["local", "ray"]
LOG = "train.log"


@dataclass(frozen=True)
class Job:
    """One run of a sweep: a recipe, the options that differ from it, a seed, and the folder that it is to fill."""

    recipe: str
    options: tuple[tuple[str, str], ...]
    seed: int
    folder: Path

    def command(self) -> list[str]:
        """`metabox train` as a process."""
        chosen = [word for name, value in self.options for word in (f"--{name}", value)]
        ends = ["--seed", str(self.seed), "--out", str(self.folder)]
        return [sys.executable, "-m", "metabox", "train", self.recipe, *chosen, *ends]

    def is_finished(self) -> bool:
        return manifest.is_finished(self.folder)


def grid(recipes: Sequence[str], options: Sequence[str], seeds: int, out: str | Path) -> list[Job]:
    """Every recipe with every combination of the options' values and every seed 0 ... seeds - 1.

    Args:
        recipes: names or paths.
        options: each `NAME=VALUE,VALUE,...`; a comma within brackets belongs to a value.
        seeds: runs of each combination.
        out: folder of the runs.

    Raises:
        ValueError: for a recipe that is not there, an option of another form, or no seed.
    """
    if seeds < 1 or not recipes:
        raise ValueError(f"expected RECIPE... and seeds of at least 1, got {list(recipes)} and {seeds}")
    axes = [_axis(option) for option in options]
    jobs = []
    for recipe, chosen, seed in itertools.product(recipes, itertools.product(*axes), range(seeds)):
        parts = [find(recipe).stem, *(f"{name}={value}" for name, value in chosen), f"seed{seed}"]
        folder = Path(out) / re.sub(r"[^\w.=,-]", "_", "-".join(parts))
        jobs.append(Job(recipe, chosen, seed, folder))
    if len({job.folder for job in jobs}) < len(jobs):
        raise ValueError(
            f"expected runs that differ, got some twice in recipes {list(recipes)}, options {list(options)}"
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
    """Run what is not finished yet, and return what all came to: for each run its folder and its mean scores.

    Args:
        jobs: the runs, of `grid`.
        engine: "local" starts processes on this machine; "ray" tasks on a Ray cluster, or on this machine where none
            is running. A cluster needs metabox on every machine, and one file system for the folders.
        at_once: processes at a time, here; on Ray, as many as its resources allow.
        gpus: GPUs that Ray gives to each run.

    Raises:
        ValueError: where a run failed, after all others have ended, naming the log of each that did.
        ImportError: where Ray is asked for and missing.
    """
    if engine not in get_args(Engine) or at_once < 1 or gpus < 0:
        raise ValueError(
            f"expected engine among {get_args(Engine)}, at_once of at least 1 and gpus of at least 0, got "
            f"{engine!r}, {at_once} and {gpus}"
        )
    missing = [job for job in jobs if not job.is_finished()]
    start = _on_ray(gpus) if engine == "ray" else _here(at_once)
    failed = []
    for done, (job, code) in enumerate(start([(job, job.command()) for job in missing]), 1):
        print(f"{done}/{len(missing)} {job.folder.name}: {'failed' if code else 'done'}", flush=True)
        failed += [str(job.folder / LOG)] if code else []
    if failed:
        raise ValueError(
            f"expected every run to end well, got {len(failed)} that failed; see {', '.join(sorted(failed))}"
        )
    return {"runs": [_summary(job) for job in jobs]}


Start = Callable[[list[tuple[Job, list[str]]]], Iterator[tuple[Job, int]]]


def execute(command: list[str], folder: str) -> int:
    """Run a command, what it says going to the folder's log; returns its exit code."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (Path(folder) / LOG).open("a", encoding="utf-8") as log:
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode


def _here(at_once: int) -> Start:
    def start(todo: list[tuple[Job, list[str]]]) -> Iterator[tuple[Job, int]]:
        with ThreadPoolExecutor(at_once) as pool:  # the work is in the processes
            running = {pool.submit(execute, command, str(job.folder)): job for job, command in todo}
            for ended in as_completed(running):
                yield running[ended], ended.result()

    return start


def _on_ray(gpus: float) -> Start:
    try:
        import ray
    except ImportError as error:
        raise ImportError('engine "ray" needs Ray: pip install ray; engine "local" needs nothing') from error
    if not ray.is_initialized():
        ray.init()  # the cluster of RAY_ADDRESS, or one on this machine
    remote = ray.remote(num_gpus=gpus, max_retries=2)(execute)  # a machine that is lost is made up for by another

    def start(todo: list[tuple[Job, list[str]]]) -> Iterator[tuple[Job, int]]:
        # Folders as seen from here: workers start elsewhere.
        running = {remote.remote(_absolute(command, job), str(job.folder.absolute())): job for job, command in todo}
        while running:
            (ended,), _ = ray.wait(list(running))
            yield running.pop(ended), ray.get(ended)

    return start


def _absolute(command: list[str], job: Job) -> list[str]:
    """The command with its folder, and a recipe that is a file, as absolute paths, and each machine's own Python."""
    found = {str(job.folder): str(job.folder.absolute())}
    if Path(job.recipe).is_file():
        found[job.recipe] = str(Path(job.recipe).absolute())
    return [found.get(word, word) for word in command]


def _summary(job: Job) -> dict[str, Any]:
    result = read_json(min((job.folder / "results").glob("test-*.json")))
    scores = {name: value["mean"] for name, value in result["summary"].items() if isinstance(value, dict)}
    return {"recipe": job.recipe, **dict(job.options), "seed": job.seed, "folder": str(job.folder), **scores}


def write_summary(result: dict[str, Any], out: str | Path) -> Path:
    """Write `sweep.json`, what `sweep` returned."""
    path = Path(out) / "sweep.json"
    write_json(path, result)
    return path
