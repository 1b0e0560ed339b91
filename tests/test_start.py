"""What is imported before anything is computed. An import that comes back is a second or two at every start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metabox.cli.main import main

SLOW = (
    "lightning_fabric",
    "matplotlib",
    "metabox.reports.page",
    "pandas",
    "scipy",
    "sklearn",
    "sympy",
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torchjd",
    "torchmetrics",
    "torchvision",
)
LIGHT: set[str] = set()
HELP = {"torch"}
EVALUATING = HELP
TRAINING = {"lightning_fabric", "sympy", "torch", "torch._dynamo", "torch.distributed.fsdp"}
"""Fabric and torch's own optimizers import torch._dynamo, and that the rest."""

PROGRAM = """
import json, sys

arguments = json.loads(sys.argv[1])
if arguments[:1] == ["train"] and "--help" not in arguments:
    from metabox.training import loop

    def validate(*_):
        raise KeyboardInterrupt  # behind the last step; scores need more

    loop.validate = validate
if arguments[:1] == ["evaluate"]:
    from metabox import evaluation

    def score_batch(*_):
        raise KeyboardInterrupt  # before the first batch; the means of scores need more

    evaluation.score_batch = score_batch
if arguments:
    from metabox.cli.main import main

    try:
        main(arguments)
    except SystemExit:
        pass
else:
    import metabox
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def loaded(arguments: list[str], folder: Path) -> set[str]:
    """Those of the slow modules that a command loads, or `import metabox` without arguments."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return set(SLOW) & set(json.loads(done.stderr.splitlines()[-1]))


STARTS: dict[str, tuple[list[str], set[str]]] = {
    "import metabox": ([], LIGHT),
    "--help": (["--help"], LIGHT),
    "list": (["list"], LIGHT),
    "train --help": (["train", "--help"], HELP),
    "train RECIPE --help": (["train", "glyphs-5w1s-incontext", "--help"], HELP),
    "two steps": (["train", "glyphs-5w1s-incontext", "--outer.steps", "2", "--outer.n_tasks", "1"], TRAINING),
}


@pytest.mark.parametrize("name", STARTS)
def test_a_start_loads_no_more_than_it_needs(name: str, tmp_path: Path) -> None:
    arguments, may = STARTS[name]
    found = loaded(arguments, tmp_path)
    assert found <= may
    assert "torch" in found or may is LIGHT  # it did start


def test_evaluating_a_run_loads_no_more_before_its_first_batch(tmp_path: Path) -> None:
    outer = ["--outer.steps", "1", "--outer.n_tasks", "1", "--outer.n_validation", "1"]
    assert main(["train", "sinusoid-cnp", *outer, "--n_test", "2", "--out", str(tmp_path / "run")]) == 0
    found = loaded(["evaluate", str(tmp_path / "run")], tmp_path)
    assert "torch" in found
    assert found <= EVALUATING


def test_fabric_does_not_load_torchmetrics_and_leaves_it_to_others(tmp_path: Path) -> None:
    program = (
        "import sys, metabox.training.engine\n"
        "assert 'torchmetrics' not in sys.modules\n"
        "import torchmetrics; torchmetrics.classification"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
