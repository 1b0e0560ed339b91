"""Trains the toy in a process of its own, for tests that kill it: `python train_toy.py OUT [STEPS]`."""

import sys

from toys import Signs, Toy

from metabox.outer import OuterLoop
from metabox.training import run

if __name__ == "__main__":
    settings = OuterLoop(
        steps=int(sys.argv[2]), n_tasks=8, validate_every=20, n_validation=20, average=0.9, warmup=10, precision="32"
    )
    try:
        run(Signs(), Toy, settings, out=sys.argv[1])
    except KeyboardInterrupt as stopped:
        print(stopped)
        sys.exit(130)
