"""Regenerates the committed results, one command after the other, and goes on where it was stopped.

    python benchmarks/all.py --data-root DIR                       # the quick tier, at most 90 minutes of two cores
    python benchmarks/all.py --tier full --data-root DIR           # every result, days
    python benchmarks/all.py --only precision.json start.json
    python benchmarks/all.py --list                                # what there is, and of which version of metabox

A script beside this one names what it writes in its constant JOBS, a list of objects: `writes`, a file in results/;
`arguments` of the command; `tier`, "quick" or "full"; `minutes` that it takes; and if they hold, `data`: it takes
--data-root, `threads`: the number that it needs, and `after`: the file that it reads. So a new result needs no change
here.

Every result holds `git_tree`, the hash that git gives to the folder metabox/. A file with another hash, or none, is
measured again; until then its rows are kept, and README and docs call them older. results/manifest.json has the hash of
the last regeneration, and the files with their commands: what is not in it is not printed anywhere. The script refuses
to run with uncommitted changes under metabox/.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
import time
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from manifest import MANIFEST, RESULTS, is_current, manifest

from metabox.files import write_json

HERE = Path(__file__).parent
TIERS = ("quick", "full")
Job = dict[str, Any]
Run = Callable[[Job, "str | None", str], bool]


def jobs(folder: Path = HERE) -> dict[str, Job]:
    """What can be regenerated, by the file that it writes; read from the sources, without importing them.

    Raises:
        ValueError: if two scripts write the same file, or a job has no or an unknown tier.
    """
    found: dict[str, Job] = {}
    for script in sorted(folder.glob("*.py")):
        for node in ast.parse(script.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "JOBS":
                for job in ast.literal_eval(node.value):
                    if job["writes"] in found:
                        raise ValueError(f"expected one script that writes {job['writes']}, got {script.name} too")
                    if job.get("tier") not in TIERS:
                        raise ValueError(f"expected a tier among {TIERS} for {job['writes']}, got {job.get('tier')!r}")
                    found[job["writes"]] = {"script": script.name, "arguments": "", **job}
    return found


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"expected a git checkout, got: {done.stderr.strip()}")
    return done.stdout.strip()


def version() -> str:
    """The hash that git gives to the folder metabox/.

    Raises:
        ValueError: if there are uncommitted changes in it.
    """
    if changed := git("status", "--porcelain", "--", ":/metabox"):
        raise ValueError(f"expected no uncommitted changes under metabox/, got {changed.splitlines()[0].strip()!r}")
    return git("rev-parse", "HEAD:metabox")


def command(job: Job) -> str:
    """What is printed beside the result."""
    return " ".join(["python", f"benchmarks/{job['script']}", *job["arguments"].split()])


def execute(job: Job, root: str | None, now: str) -> bool:
    """Run a job; trainings go to a folder of this version, so that none of another is taken for finished."""
    folder = HERE.parent / "runs" / f"all-{now[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, str(HERE / job["script"]), *job["arguments"].split()]
    words += ["--data-root", str(Path(root).resolve())] if root and job.get("data") else []
    variables = {"OMP_NUM_THREADS": str(job["threads"])} if "threads" in job else {}
    return not subprocess.run(words, cwd=folder, env=os.environ | variables, check=False).returncode


def regenerate(wanted: dict[str, Job], root: str | None, path: Path = MANIFEST, run: Run = execute) -> list[str]:
    """Run what is not of this version of metabox; returns the files whose script failed, or did not write all rows."""
    now, failed = version(), []
    reads = {name: [job["after"]] if job.get("after") in wanted else [] for name, job in wanted.items()}
    for name in TopologicalSorter(reads).static_order():
        job, state = wanted[name], manifest(path)
        if is_current(path.parent / name, now) and name not in state.get("failed", ()):
            if name not in state["files"]:  # its script was run by hand
                enter(name, job, None, now, path)
            continue
        print(f"{name}: {command(job)} (about {job['minutes']} min)", flush=True)
        began = time.monotonic()
        if not run(job, root, now) or not is_current(path.parent / name, now):
            failed.append(name)
            state = manifest(path)  # what it wrote may look current
            write_json(path, state | {"failed": sorted({*state.get("failed", ()), name})})
            continue
        enter(name, job, round((time.monotonic() - began) / 60, 1), now, path)
    return failed


def enter(name: str, job: Job, minutes: float | None, now: str, path: Path) -> None:
    """Write into the manifest how a file was made, and in how many minutes if that was measured."""
    state = manifest(path)
    state["files"][name] = {"command": command(job), "minutes": minutes}
    failed = [other for other in state.pop("failed", ()) if other != name]
    state |= {"current": now, "files": dict(sorted(state["files"].items()))}
    write_json(path, state | ({"failed": failed} if failed else {}))


def listed(known: dict[str, Job], state: dict[str, Any]) -> str:
    """A line for each file: whether it is of the current version, tier, minutes, command."""
    lines = []
    for name in sorted({*known, *state["files"]}):
        of, job = state["files"].get(name), known.get(name)
        age = "missing" if of is None else "current" if is_current(RESULTS / name, state["current"]) else "older"
        how = f"{job['tier']:5}  {job['minutes']:>5} min  {command(job)}" if job else "by hand"
        lines.append(f"{name:30}  {age:7}  {how}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = jobs()
    parser.add_argument("--tier", choices=TIERS, default="quick", help="full: the quick tier too")
    parser.add_argument("--only", nargs="+", choices=list(known), metavar="FILE", help="these files, of any tier")
    parser.add_argument("--data-root", help="folder of the data sets; else METABOX_DATA")
    parser.add_argument("--list", action="store_true", help="print what there is, and run nothing")
    options = parser.parse_args()
    if options.list:
        print(listed(known, manifest()))
        return
    tiers = TIERS[: TIERS.index(options.tier) + 1]
    names = options.only or [name for name, job in known.items() if job["tier"] in tiers]
    try:
        failed = regenerate({name: known[name] for name in names}, options.data_root)
    except ValueError as error:
        parser.error(str(error))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the others are done, the same command tries these again")


if __name__ == "__main__":
    main()
