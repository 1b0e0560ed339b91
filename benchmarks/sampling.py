"""The speed of sampling: `Omniglot.sample` beside the bare gather of the same bytes.

    python benchmarks/sampling.py --data-root PATH

Each round times the sampler and `images.index_select(0, rows)` with rows drawn beforehand, one after
the other in the same process, so that both run under the same load of the machine. The middle half of
the rounds' ratios is printed beside the median, and everything is written to results/sampling.json.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stopwatch import quartiles
from torch import Tensor

from metabox.data.root import CACHE_VARIABLE
from metabox.files import write_json
from metabox.tasks.images.omniglot import Omniglot
from metabox.tasks.place import Place
from metabox.training.allocator import keep_freed_memory
from metabox.training.environment import collect_environment

JOBS = [
    {"writes": "sampling.json", "tier": "quick", "minutes": 2, "data": True},
]

TASKS = 32  # per call
SHAPES = ((5, 1), (20, 5))  # way, shot
QUERIES = 15
RESULTS = Path(__file__).parent / "results" / "sampling.json"


def bare(sampler: Omniglot, per_call: int, calls: int) -> Callable[[int], Tensor]:
    """The gather alone, of upright training images: other rows in each call, as in training."""
    images = sampler.images.pack.images.clone()  # type: ignore[attr-defined]  # plain memory, not the mapped file
    upright = Omniglot(rotations=False, data_root=sampler.data_root).images
    rows = torch.from_numpy(upright.ids(upright.splits["train"][:, None], np.arange(20)).ravel())
    chosen = rows[torch.randint(len(rows), (calls, per_call), generator=torch.Generator().manual_seed(0))]
    return lambda step: images.index_select(0, chosen[step % calls])


def seconds(call: Callable[[int], object], begin: int, calls: int) -> float:
    """Mean time of a call."""
    start = time.perf_counter()
    for step in range(begin, begin + calls):
        call(step)
    return (time.perf_counter() - start) / calls


def compare(sampler: Omniglot, rounds: int, calls: int) -> dict[str, object]:
    """Milliseconds for a call of TASKS tasks, and the ratio of episodes per second, over interleaved rounds."""
    per_call = TASKS * sampler.n_way[0] * (sampler.n_shot[0] + sampler.n_query[0])
    gather = bare(sampler, per_call, calls)

    def sample(step: int) -> object:
        return sampler.sample(Place(TASKS, "train", index=step))

    seconds(sample, 0, 2), seconds(gather, 0, 2)  # first use
    times = [(seconds(gather, 0, calls), seconds(sample, 2 + i * calls, calls)) for i in range(rounds)]
    gathering, sampling = ([1e3 * t for t in column] for column in zip(*times, strict=True))
    return {
        "gather_ms": quartiles(gathering),
        "sample_ms": quartiles(sampling),
        "ratio": quartiles([g / s for g, s in zip(gathering, sampling, strict=True)]),
        "episodes_per_second": TASKS * 1e3 / statistics.median(sampling),
    }


def packing(data_root: str | None) -> dict[str, float]:
    """Seconds to pack all of Omniglot into an empty cache, and to open the pack in a later run."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        times = []
        for _ in range(2):
            start = time.perf_counter()
            _ = Omniglot(data_root=data_root).images  # nothing else holds the pack, so the second time opens it again
            times.append(time.perf_counter() - start)
            gc.collect()
        del os.environ[CACHE_VARIABLE]
    return {"packing_s": times[0], "opening_s": times[1]}


def show(values: dict[str, float]) -> str:
    return f"{values['median']:.3f} [{values['q1']:.3f}, {values['q3']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder that holds omniglot/")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--calls", type=int, default=32, help="calls in a round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()  # as in `run`
    results = []
    print(f"threads {'task':8} {'rotations':9} {'gather, ms':22} {'sample, ms':22} {'ratio':22} episodes/s")
    for threads in options.threads:
        torch.set_num_threads(threads)
        for (n_way, n_shot), rotations in itertools.product(SHAPES, (False, True)):
            sampler = Omniglot(
                rotations=rotations, data_root=options.data_root, n_way=n_way, n_shot=n_shot, n_query=QUERIES
            )
            measured = compare(sampler, options.rounds, options.calls)
            results.append({"threads": threads, "n_way": n_way, "n_shot": n_shot, "rotations": rotations, **measured})
            print(
                f"{threads:7}",
                f"{n_way}w{n_shot}s".ljust(8),
                str(rotations).ljust(9),
                *(show(measured[k]).ljust(22) for k in ("gather_ms", "sample_ms", "ratio")),  # type: ignore[arg-type]
                f"{measured['episodes_per_second']:,.0f}",
            )
    packed = packing(options.data_root)
    print(f"packing {packed['packing_s']:.1f} s, opening {packed['opening_s']:.3f} s")
    protocol = {"tasks_per_call": TASKS, "n_query": QUERIES, "rounds": options.rounds, "calls": options.calls}
    write_json(
        options.out, {"environment": collect_environment(), "protocol": protocol, "packing": packed, "results": results}
    )


if __name__ == "__main__":
    main()
