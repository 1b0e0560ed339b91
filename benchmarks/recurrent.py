"""What a batch of a stream costs MANN and LSTM, forward and backward, beside another checkout in the same run.

    OMP_NUM_THREADS=1 python benchmarks/recurrent.py --against CHECKOUT     # two minutes

A batch is 16 streams of 55 images of 20x20, as in the recipes omniglot-stream5-mann and -lstm. One worker process per
checkout, on one thread, makes a few calls in turns: A B, B A, A B, ... Times are of the processor, to which waiting
for other processes does not add; `least_by_the_clock` is by the clock, of the fastest call of all. A round's time is
its fastest call, a ratio is within a round, and cells are medians with quartiles over the rounds. Writes
results/recurrent.json.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, cast

import against

from metabox.files import write_json
from metabox.training.environment import collect_environment

RESULTS = Path(__file__).parent / "results" / "recurrent.json"
CASES = {
    "MANN": {"learner": "MANN", "bf16": False},
    "MANN bf16": {"learner": "MANN", "bf16": True},
    "LSTM": {"learner": "LSTM", "bf16": False},
    "LSTM bf16": {"learner": "LSTM", "bf16": True},
}


class Worker:
    """A process that times calls with one checkout.

    Raises:
        ValueError: if the package that it imports is not the checkout's.
    """

    def __init__(self, checkout: Path) -> None:
        script = str(Path(__file__).parent / "recurrent_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=against.environment(checkout),
        )
        package = str(self._answer()["package"])
        if not Path(package).is_relative_to(checkout.resolve()):
            self.close()
            raise ValueError(
                f"expected a checkout with the package metabox in it, got {checkout}, which gave {package}"
            )

    def milliseconds(self, case: Mapping[str, Any], calls: int) -> tuple[float, float]:
        """The least time of a call, by the clock and of the processor."""
        stdin = cast(IO[str], self._process.stdin)
        stdin.write(json.dumps({**case, "calls": calls}) + "\n")
        stdin.flush()
        by_clock, of_processor = zip(*self._answer(), strict=True)
        return min(by_clock), min(of_processor)

    def _answer(self) -> Any:
        return json.loads(cast(IO[str], self._process.stdout).readline())

    def close(self) -> None:
        self._process.communicate()  # it ends with its input


def measure(checkouts: Mapping[str, Path], rounds: int, calls: int) -> list[dict[str, Any]]:
    """A row for each case."""
    with ExitStack() as stack:
        workers = {}
        for who, checkout in checkouts.items():
            workers[who] = Worker(checkout)
            stack.callback(workers[who].close)
        rows = []
        for name, case in CASES.items():
            ms: dict[str, list[float]] = {who: [] for who in workers}
            clock = dict.fromkeys(workers, math.inf)
            for worker in workers.values():
                worker.milliseconds(case, 2)  # kernels are made
            for order in against.turns(workers, rounds):
                for who in order:
                    by_clock, of_processor = workers[who].milliseconds(case, calls)
                    clock[who] = min(clock[who], round(by_clock, 3))
                    ms[who].append(of_processor)
            rows.append({"case": name, **against.compared(ms, "ms"), "least_by_the_clock": clock})
            print(json.dumps(rows[-1]), flush=True)
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKOUT", help="of the earlier code")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=3, help="of a round, whose fastest counts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    checkouts = {"this": against.HERE, "other": options.against.resolve()}
    rows = measure(checkouts, options.rounds, options.calls)
    about = {**collect_environment(), "calls": options.calls, "other": against.commit(checkouts["other"])}
    write_json(options.out, {"measured_with": about, "batches": rows})


if __name__ == "__main__":
    main()
