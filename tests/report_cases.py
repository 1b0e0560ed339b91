"""What the tests of reports share: two runs of a recipe and their report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECIPE = "glyphs-5w1s-incontext"
QUICK = [
    *("--outer.steps", "4", "--outer.validate_every", "2", "--outer.n_validation", "4", "--n_test", "8"),
    *("--tasks.init_args.n_way", "5", "--outer.n_tasks", "2", "--learner.init_args.backbone.init_args.width", "8"),
    *("--evaluation.init_args.n_query", "3"),
]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def claim(run: Path, **about: Any) -> Path:
    """Give a run a claim, as if it had been trained with it."""
    (run / "manifest.json").unlink(missing_ok=True)
    with (run / "recipe.yaml").open("a", encoding="utf-8") as file:
        file.write(f"claim: {json.dumps({'metric': 'accuracy', 'value': 50, 'source': 'A paper'} | about)}\n")
    return run
