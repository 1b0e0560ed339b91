"""The robustness campaign: kills, flipped bits, full disks, hostile files. Nothing may be lost, nothing executed.

    python benchmarks/robustness.py                      # all of it, some 40 minutes on two cores
    python benchmarks/robustness.py kills flips -n 5     # some parts, five tries of each kind

Every try starts from a finished run or from nothing, does one harm, repeats the same command, and compares the outcome
with an undisturbed run: weights bit by bit, metrics, scores, and the list of files. Writes results/robustness.json.
POSIX only, because children are forked from a parent that has imported everything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # no threads in the parent
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from children import Child, command, copied, descendants, files, finished, flipped, outcome, recipe, start

import metabox.cli.sweep
import metabox.reports.page  # warm: a child imports nothing
import metabox.training.loop  # noqa: F401
from metabox.data.root import CACHE_VARIABLE
from metabox.files import read_json, write_json
from metabox.tasks.images.folder import ClassFolder
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "robustness.json", "tier": "full", "minutes": 40},
]

RESULTS = Path(__file__).parent / "results" / "robustness.json"
TRIES = {"training": 40, "checkpointing": 40, "packing": 30, "evaluation": 30, "report": 30, "sweep": 30}
FLIPS = {"checkpoint": 60, "best.safetensors": 30, "recipe.yaml": 25, "results": 25, "metrics.jsonl": 25, "pack": 35}
DISKS_KB = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 512, 2048)

Row = dict[str, Any]


# ------------------------------------------------------------------------- kills


def kills(work: Path, tries: dict[str, int], draw: random.Random) -> Iterator[Row]:
    """SIGKILL at a random moment of a command, then the same command again."""
    for kind, n in tries.items():
        scene = SCENES[kind](work / kind)
        began = time.monotonic()
        scene.run(scene.fresh())
        lasts = time.monotonic() - began
        expected, usual = scene.came_to(), files(scene.folder)
        row: Row = {"kind": kind, "tries": 0, "lost": 0, "leftovers": 0, "alive": 0, "what": []}
        while row["tries"] < n:
            folder = scene.fresh()
            child = start(scene.call(folder), work / "killed.log")
            if child.wait(draw.uniform(0, lasts)) is not None:
                continue  # it was quicker than the first
            child.kill()
            row["tries"] += 1
            row["alive"] += _still_there(child)
            try:
                scene.run(folder)
                if scene.came_to() != expected:
                    raise RuntimeError("it came to something else")
            except RuntimeError as error:
                row["lost"] += 1
                row["what"].append(str(error))
            if more := files(scene.folder) - usual:
                row["leftovers"] += 1
                row["what"].append(f"left: {sorted(more)[:5]}")
        yield row


def _still_there(child: Child, seconds: float = 10) -> int:
    """The number of processes that outlive the killed one by more than a moment."""
    until = time.monotonic() + seconds
    while (alive := descendants(child)) and time.monotonic() < until:
        time.sleep(0.05)
    return len(alive)


class Scene:
    """A command, the folder that it works in, and its expected outcome."""

    steps, validate_every = 60, 10

    def __init__(self, work: Path) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        self.work, self.folder = work, work / "folder"
        self.recipe = recipe(work, self.steps, self.validate_every)

    def fresh(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.folder

    def call(self, folder: Path) -> Callable[[], object]:
        return command("train", self.recipe, "--out", folder)

    def run(self, folder: Path) -> Child:
        return finished(self.call(folder), self.work / "log")

    def came_to(self) -> Any:
        return outcome(self.folder)


class Checkpointing(Scene):
    steps, validate_every = 30, 1


class Packing(Scene):
    def __init__(self, work: Path) -> None:
        super().__init__(work)
        from made_up import made

        self.images = made(work / "images", [f"class{c}" for c in range(40)], each=15, size=24)

    def call(self, folder: Path) -> Callable[[], object]:
        def pack() -> None:
            os.environ[CACHE_VARIABLE] = str(folder)
            sampler = ClassFolder(str(self.images), channels=1, splits=(1.0, 0.0, 0.0), n_query=1)
            (self.work / "fingerprint").write_text(sampler.fingerprint())

        return pack

    def came_to(self) -> Any:
        return (self.work / "fingerprint").read_text()


class Evaluation(Scene):
    words: tuple[object, ...] = ("--n_test", 400, "--test_seed", 3)

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.trained = work / "trained"
        finished(Scene.call(self, self.trained), work / "log")

    def fresh(self) -> Path:
        super().fresh()
        shutil.copytree(self.trained, self.folder)
        return self.folder

    def call(self, folder: Path) -> Callable[[], object]:
        return command("evaluate", folder, *self.words)


class Report(Evaluation):
    def fresh(self) -> Path:
        return Scene.fresh(self)

    def call(self, folder: Path) -> Callable[[], object]:
        return command("report", self.trained, "--out", folder, "--n_tasks", 5)

    def came_to(self) -> Any:
        return (self.folder / "report.md").read_text(encoding="utf-8")


class Sweep(Scene):
    def call(self, folder: Path) -> Callable[[], object]:
        return command("sweep", self.recipe, "--seeds", 1, "--out", folder)

    def came_to(self) -> Any:
        (run,) = (path.parent for path in self.folder.glob("*/best.safetensors"))
        return outcome(run), (self.folder / "sweep.json").exists()


SCENES: dict[str, type[Scene]] = {
    "training": Scene,
    "checkpointing": Checkpointing,
    "packing": Packing,
    "evaluation": Evaluation,
    "report": Report,
    "sweep": Sweep,
}


# ------------------------------------------------------------------------- flips


def flips(work: Path, tries: dict[str, int], draw: random.Random) -> Iterator[Row]:
    """One bit of one file flipped; then the command that reads the file."""
    scene = Scene(work / "flips")
    whole = scene.work / "whole"
    scene.run(whole)
    expected = outcome(whole)
    stopped = scene.work / "stopped"  # halfway, as if killed after a checkpoint
    _stop_half_way(scene, stopped)
    packing = Packing(work / "flips-pack")
    packing.run(packing.fresh())
    for kind, n in tries.items():
        row: Row = {"kind": kind, "tries": n, "noticed": 0, "harmless": 0, "silent": 0, "tracebacks": 0, "what": []}
        for _ in range(n):
            if kind == "pack":
                verdict, said = _flip_of_a_pack(packing, draw)
            elif kind == "checkpoint":
                verdict, said = _flip_of_a_checkpoint(scene, stopped, expected, draw)
            else:
                verdict, said = _flip_of_a_run(scene, whole, kind, draw)
            row[verdict] += 1
            row["tracebacks"] += "Traceback" in said
            if verdict == "silent" or "Traceback" in said:
                row["what"].append(said[-1000:])
        yield row


def _stop_half_way(scene: Scene, folder: Path) -> None:
    """An unfinished run with two checkpoints, of steps 10 and 20."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        child = start(scene.call(folder), scene.work / "log")
        second = folder / "checkpoints" / "step-00000020"
        while not second.exists() and child.wait(0) is None:
            time.sleep(0.001)
        child.kill() if child.wait(0) is None else None
        if second.exists() and not (folder / "checkpoints" / "step-00000040").exists():
            return


def _flip_of_a_checkpoint(scene: Scene, stopped: Path, expected: Any, draw: random.Random) -> tuple[str, str]:
    with copied(stopped, scene.work / "flipped") as run:
        newest = max((run / "checkpoints").iterdir())
        path = draw.choice(sorted(path for path in newest.rglob("*") if path.is_file()))
        bit = flipped(path, draw)
        child = start(scene.call(run), scene.work / "log")
        code = child.wait(120)
        about = f"bit {bit} of {path.name}: exit {code}, {child.said}"
        # The recipe knows nothing of `run`'s name; its results are those of the whole run or an error.
        if code == 0 and outcome(run) != expected:
            return "silent", about
        return ("noticed" if code != 0 or "cannot be read" in child.said else "harmless"), about


def _flip_of_a_run(scene: Scene, whole: Path, kind: str, draw: random.Random) -> tuple[str, str]:
    with copied(whole, scene.work / "flipped") as run:
        path = draw.choice(sorted((run / "results").glob("*.json"))) if kind == "results" else run / kind
        bit = flipped(path, draw)
        out = scene.work / "report"
        reads_all = kind in ("results", "metrics.jsonl")
        words = ("report", run, "--out", out, "--n_tasks", 0) if reads_all else ("evaluate", run)
        child = start(command(*words), scene.work / "log")
        code = child.wait(120)
        said = child.said + ((out / "report.json").read_text() if reads_all and code == 0 else "")
        shutil.rmtree(out, ignore_errors=True)
        noticed = code != 0 or f"{path.relative_to(run).as_posix()} (changed)" in said
        return ("noticed" if noticed else "silent"), f"bit {bit} of {path.name}: exit {code}, {said}"


def _flip_of_a_pack(packing: Packing, draw: random.Random) -> tuple[str, str]:
    with copied(packing.folder, packing.work / "flipped") as cache:
        (path,) = (path for path in cache.iterdir() if path.suffix == ".safetensors")
        bit = flipped(path, draw)
        child = start(packing.call(cache), packing.work / "log")
        code = child.wait(60)
        noticed = code not in (0, None) or "damaged" in child.said
        return ("noticed" if noticed else "silent"), f"bit {bit}: exit {code}, {child.said}"


# ------------------------------------------------------------------------- full disks


def disks(work: Path, sizes_kb: tuple[int, ...]) -> Iterator[Row]:
    """Train and pack on a small disk; if none can be mounted, with a limit on the size of files."""
    scene, packing = Scene(work / "disks"), Packing(work / "disks-pack")
    for size in sizes_kb:
        for name, one in (("training", scene), ("packing", packing)):
            with _disk(work / "disk", size) as (folder, how):
                child = start(_limited(one.call(folder / "run"), size, how), work / "log")
                code, said = child.wait(120), child.said
                lines = [line for line in said.splitlines() if "error" in line]
                yield {
                    "kind": f"{name} on {size} KB ({how})",
                    "exit": code,
                    "traceback": "Traceback" in said and "metabox: error" not in said.partition("Traceback")[0],
                    "said": (lines or [""])[-1][:300].replace(str(work), "."),
                }


@contextmanager
def _disk(folder: Path, size_kb: int) -> Iterator[tuple[Path, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    # A size of 0 would be no limit; a page is the smallest.
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size_kb, 4)}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield folder, "tmpfs" if mounted else "RLIMIT_FSIZE"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def _limited(call: Callable[[], object], size_kb: int, how: str) -> Callable[[], object]:
    def limited() -> object:
        if how == "RLIMIT_FSIZE":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * size_kb,) * 2)
        try:
            return call()
        except OSError as error:  # as the command line says it
            print(f"metabox: error: {error}")
            return 2

    return limited


# ------------------------------------------------------------------------- hostile files


def hostile(work: Path) -> Iterator[Row]:
    """Open every file of tests/hostile.py as a user would, and train every recipe of tests/test_gate.py."""
    import hostile as files_of_strangers
    import test_gate as recipes_of_strangers

    usual: dict[str, float] = {}
    for name, case in files_of_strangers.GOOD.items():
        seconds, _ = _opened(work, case)
        usual[name.partition("/")[0]] = seconds
    rows: dict[str, Row] = {}
    for name, case in files_of_strangers.HOSTILE.items():
        kind = name.partition("/")[0]
        row = rows.setdefault(kind, _empty_row(f"hostile {kind}"))
        _count(row, name, *_opened(work, case), usual.get(kind, 0.0))
    row = rows.setdefault("recipes", _empty_row("hostile recipes"))
    good, _ = _trained(work, recipes_of_strangers.GOOD, help=True)
    for name, text in recipes_of_strangers.HOSTILE.items():
        _count(row, name, *_trained(work, text), good)
    yield from rows.values()


def _empty_row(kind: str) -> Row:
    return {"kind": kind, "tries": 0, "executed": 0, "crashed": 0, "slower_by_s": 0.0, "slow": 0, "what": []}


def _count(row: Row, name: str, seconds: float, verdict: str, usual: float) -> None:
    row["tries"] += 1
    row["slower_by_s"] = round(max(row["slower_by_s"], seconds - usual), 2)
    row["slow"] += seconds - usual > 5
    if verdict in ("executed", "crashed"):
        row[verdict] += 1
    if verdict != "refused or read" or seconds - usual > 5:
        row["what"].append(f"{name}: {verdict} after {seconds:.1f} s")


def _opened(work: Path, case: Any) -> tuple[float, str]:
    folder = work / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    case.make(folder)

    def read() -> int:
        os.environ[CACHE_VARIABLE] = str(folder / "cache")
        try:
            case.read(folder)
        except (ValueError, OSError) as error:
            print(error)
        return 0

    return _timed(folder, read)


def _trained(work: Path, text: str, help: bool = False) -> tuple[float, str]:
    folder = work / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "r.yaml").write_text(text, encoding="utf-8")

    def train() -> int:
        os.chdir(folder)
        code = command("train", "r.yaml", *(["--print_config"] if help else []))()
        return 0 if code in (0, 2) else code

    return _timed(folder, train)


def _timed(folder: Path, call: Callable[[], object]) -> tuple[float, str]:
    """Seconds of a call in a child, killed after 30, and its verdict."""
    began = time.monotonic()
    child = start(call, folder / "log")
    code = child.wait(30)
    if code is None:
        child.kill()
    seconds = time.monotonic() - began
    if (folder / "PWNED").exists():
        return seconds, "executed"
    return seconds, "refused or read" if code == 0 else "crashed" if code is None or code < 0 else "traceback"


# -------------------------------------------------------------------------


PARTS = ("kills", "flips", "disks", "hostile")


def campaign(
    parts: Sequence[str], work: Path, n: int | None = None, seed: int = 0, kinds: Sequence[str] | None = None
) -> Iterator[tuple[str, Row]]:
    """The rows of some parts, or only of some kinds, with n tries of each kind instead of the default numbers."""

    def tries(usual: dict[str, int]) -> dict[str, int]:
        return {kind: n or often for kind, often in usual.items() if kinds is None or kind in kinds}

    makers: dict[str, Callable[[], Iterator[Row]]] = {
        "kills": lambda: kills(work, tries(TRIES), random.Random(seed)),
        "flips": lambda: flips(work, tries(FLIPS), random.Random(seed + 1)),
        "disks": lambda: disks(work, DISKS_KB if n is None else DISKS_KB[:: max(1, len(DISKS_KB) // n)]),
        "hostile": lambda: hostile(work),
    }
    for part in parts:
        for row in makers[part]():
            row["what"] = [text.replace(str(work), ".") for text in row.get("what", [])]
            yield part, row


def bad(row: Row) -> int:
    """The number of tries of a row with an outcome that must not occur."""
    no = ("lost", "leftovers", "alive", "silent", "tracebacks", "traceback", "executed", "crashed", "slow")
    return sum(row.get(name, 0) for name in no)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("-n", type=int, help="tries of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results; its other parts are kept")
    parser.add_argument("--kinds", nargs="+", help="of kills and flips; all by default")
    options, failed = parser.parse_args(), 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for part in options.parts:
            began, rows = time.monotonic(), []
            for _, row in campaign([part], Path(folder), options.n, options.seed, options.kinds):
                what = row.pop("what", [])
                rows.append(row)
                print(row, *what, sep="\n  ", flush=True)
            about = {"minutes": round((time.monotonic() - began) / 60, 1), "seed": options.seed, **_environment()}
            known = read_json(options.out) if options.out.exists() else {}  # another process may make another part
            write_json(options.out, known | {part: rows, f"{part}_measured_with": about})
            failed += sum(map(bad, rows))
    sys.exit(1 if failed else 0)


def _environment() -> dict[str, Any]:
    """The environment, collected in a child because that starts threads."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(collect_environment()).encode())
        os._exit(0)
    os.wait()
    known: dict[str, Any] = json.loads(os.read(read, 1 << 16))
    return known


if __name__ == "__main__":
    main()
