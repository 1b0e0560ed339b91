"""Malformed calls of every public entry point: each must be answered by what was expected and what came.

    python benchmarks/malformed.py                                     # all of it, a minute or so on one core
    python benchmarks/malformed.py calls files --every 50 --out x.json # some kinds, every 50th call of them

The calls are drawn systematically: every option of every class times every value that its hint does not allow, every
learner times every bad call, and tables of the rest (`malformed_calls.py`). An answer is `ours` if it is a ValueError
with "expected" and "got" in it (on the command line: exit code 2 and one such line), and `Python's` if it is the
TypeError about the name or the number of arguments where these were wrong. Everything else is `foreign`, and a call
that did what it was asked is `accepted`. Writes results/malformed.json and prints its table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from malformed_calls import KINDS, Call

from metabox.data.root import CACHE_VARIABLE
from metabox.files import write_json
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "malformed.json", "tier": "quick", "minutes": 3},
]

RESULTS = Path(__file__).parent / "results" / "malformed.json"
ANSWERS = ("ours", "python", "foreign", "accepted")


def answer(call: Call) -> tuple[str, str]:
    """How a call is answered: one of ANSWERS, and in which words."""
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call.make()
    except ValueError as error:
        words = str(error)
        return ("ours" if _says_all(words) and not call.arguments else "foreign"), f"{type(error).__name__}: {words}"
    except TypeError as error:
        return ("python" if call.arguments else "foreign"), f"TypeError: {error}"
    except (Exception, SystemExit) as error:
        return "foreign", f"{type(error).__name__}: {error}"
    if call.name.startswith("metabox "):
        line = stderr.getvalue().strip()
        if result == 2:
            return ("ours" if _says_all(line) and "\n" not in line else "foreign"), line
        return ("accepted" if result == 0 else "foreign"), line
    return "accepted", ""


def _says_all(words: str) -> bool:
    return "expected" in words and "got" in words.partition("expected")[2]


def measure(kinds: list[str], every: int) -> dict[str, Any]:
    """A row for each kind of entry point, and all calls that were not answered well."""
    rows, odd = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder) if hasattr(contextlib, "chdir") else (contextlib.nullcontext()),
    ):
        os.environ[CACHE_VARIABLE] = folder
        for kind in kinds:
            began, counts = time.monotonic(), Counter[str]()
            for call in itertools.islice(KINDS[kind](Path(folder)), 0, None, every):
                how, words = answer(call)
                counts[how] += 1
                if how in ("foreign", "accepted"):
                    odd.append({"kind": kind, "call": call.name, "answer": how, "words": " ".join(words.split())[:300]})
            row = {"kind": kind, "calls": sum(counts.values()), **{how: counts[how] for how in ANSWERS}}
            rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
            print(rows[-1], file=sys.stderr, flush=True)
    return {"malformed": rows, "not_answered_well": odd}


def markdown(rows: list[dict[str, Any]]) -> str:
    names = ["kind", "calls", *ANSWERS]
    total: dict[str, Any] = {"kind": "all", **{name: sum(row[name] for row in rows) for name in names[1:]}}
    lines = [" | ".join(f"{row[name]:,}" if name != "kind" else row[name] for name in names) for row in [*rows, total]]
    return "\n".join(f"| {line} |" for line in [" | ".join(names), "--- | " + " | ".join(["---:"] * 5), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--every", type=int, default=1, help="make every so many-th call only")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    found = measure(options.kinds, options.every)
    write_json(options.out.resolve(), {**found, "malformed_measured_with": collect_environment()})
    print(markdown(found["malformed"]))
    sys.exit(1 if found["not_answered_well"] else 0)


if __name__ == "__main__":
    main()
