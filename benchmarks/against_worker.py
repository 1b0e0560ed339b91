"""The worker process of a checkout for against.py: runs `metabox train` in this process on request.

It relies only on what is stable over versions: the command line, and `step`, `seconds` and `val` in metrics.jsonl.
Each input line of JSON, {"arguments": [...], "out": FOLDER}, is answered by one: wall-clock time, steps and memory.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import readings

del sys.path[0]  # the files beside this one have names of their own; PYTHONPATH comes next


def train(arguments: list[str], out: str) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    sys.argv = ["metabox", "train", *arguments, "--out", out]
    before = readings.forget_peak()
    code: Any = 0
    started = time.perf_counter()
    try:
        runpy.run_module("metabox", run_name="__main__")
    except SystemExit as end:
        code = end.code
    wall = time.perf_counter() - started
    if code:
        raise RuntimeError(f"exit code {code}")
    return {"wall": wall, "blocks": readings.blocks(out), "peak_mb": readings.memory_mb() - before}


def main() -> None:
    said, log = os.fdopen(os.dup(1), "w"), Path(sys.argv[1])
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import metabox

    def answer(content: dict[str, Any]) -> None:
        said.write(json.dumps(content) + "\n")
        said.flush()

    answer({"package": str(Path(metabox.__file__).resolve().parent)})
    for line in sys.stdin:
        try:
            answer(train(**json.loads(line)))
        except Exception as error:  # of any kind: the other recipes go on
            sys.stdout.flush()
            printed = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
            last = next((text for text in reversed(printed) if text.strip()), "")
            answer({"error": f"{type(error).__name__}: {error}; {last}"[:300]})


if __name__ == "__main__":
    main()
