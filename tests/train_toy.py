"""Trains the toy in a separate process, for tests that stop or kill it: `python train_toy.py OUT STEPS [MOMENT]`.

It counts its operations on files in OUT (opening, renaming, removing, making folders) and prints the number; at
operation MOMENT it kills itself instead. For the files, all kills between two operations are the same.
"""

import itertools
import os
import signal
import sys

from toys import Signs, Toy

from metabox.training.loop import run
from metabox.training.settings import OuterLoop

if __name__ == "__main__":
    settings = OuterLoop(
        steps=int(sys.argv[2]), n_tasks=8, validate_every=20, n_validation=20, average=0.9, warmup=10, precision="32"
    )
    moment, count = int(sys.argv[3]) if len(sys.argv) > 3 else None, itertools.count()

    def audit(_event: str, arguments: tuple[object, ...]) -> None:
        inside = any(isinstance(word, (str, os.PathLike)) and sys.argv[1] in os.fspath(word) for word in arguments)
        if inside and next(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    try:
        run(Signs(), Toy, settings, out=sys.argv[1])
    except KeyboardInterrupt as stopped:
        print(stopped)
        sys.exit(130)
    print(next(count))
