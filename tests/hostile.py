"""Untrusted files: how each is made, how a user would open it, and what the refusal says.

    python tests/hostile.py                  # all of them, one line of JSON each
    python tests/hostile.py image/eps ...    # some of them

`HOSTILE` and `GOOD` are tables of `Case` by "kind/name". A case is made in an empty folder; if it could run anything,
it would make PWNED there. Reading one raises a ValueError that matches `says`, or succeeds if that is None.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import hostile_arrays  # noqa: F401  # each adds to the tables
import hostile_images  # noqa: F401
import hostile_texts  # noqa: F401
from hostile_case import GOOD, HOSTILE, PWNED, Case, fake_ghostscript

__all__ = ["GOOD", "HOSTILE", "PWNED", "Case", "attempt", "fake_ghostscript"]


def attempt(case: Case) -> dict[str, object]:
    """Make a case in a new folder and read it: the outcome, and the CPU seconds of this process."""
    with tempfile.TemporaryDirectory() as name:
        folder, here = Path(name), Path.cwd()
        case.make(folder)
        os.chdir(folder)
        os.environ["METABOX_CACHE"] = str(folder / "cache")
        start, message = time.process_time(), None
        try:
            case.read(folder)
            outcome = "read"
        except ValueError as error:
            outcome, message = "refused", str(error)
        except Exception as error:
            outcome, message = "raised", f"{type(error).__name__}: {error}"
        seconds = time.process_time() - start
        os.chdir(here)
        if list(folder.rglob(PWNED)) or Path("/tmp", PWNED).exists():
            outcome = "executed"
    return {"outcome": outcome, "seconds": round(seconds, 2), "message": message}


if __name__ == "__main__":
    for chosen in sys.argv[1:] or [*HOSTILE, *GOOD]:
        print(json.dumps({"name": chosen} | attempt((HOSTILE | GOOD)[chosen])), flush=True)
