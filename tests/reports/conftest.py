"""What the tests of reports share: two runs of a recipe and their report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_cases import QUICK, RECIPE

from metabox.cli.main import main


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `metabox reproduce` leaves: two runs and their report."""
    out = tmp_path_factory.mktemp("reproduced")
    assert main(["reproduce", RECIPE, *QUICK, "--seeds", "2", "--n_tasks", "4", "--out", str(out)]) == 0
    return out


@pytest.fixture
def runs(reproduced: Path, tmp_path: Path) -> list[Path]:
    """Copies of the two runs, to be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in sorted((reproduced / "runs").iterdir())]
