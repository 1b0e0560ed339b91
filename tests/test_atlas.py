"""The reproduction atlas: its lines are the recipes' claims and the listed results."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabox.discover import recipes, subclasses

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def atlas(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    sys.modules.pop("atlas", None)
    return importlib.import_module("atlas")


def row(recipe: str, steps: int, **about: Any) -> dict[str, Any]:
    made = {"recipe": recipe, "steps": steps, "training_seconds": steps, "accuracy_percent": 90.0, "git_tree": "now"}
    return made | {"interval_95_percent": 0.5, "claim": None} | about


def write(folder: Path, current: str = "now", **files: Any) -> None:
    listed = {f"{name}.json": {"command": "x"} for name in files if name != "unlisted"}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "manifest.json").write_text(json.dumps({"current": current, "files": listed}))


def line(table: str, start: str) -> list[str]:
    (found,) = [text for text in table.splitlines() if text.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def test_every_learner_has_one_line_whatever_was_measured(atlas: ModuleType, tmp_path: Path) -> None:
    write(tmp_path)
    lines = atlas.atlas(tmp_path).splitlines()[2:]
    assert [text.split(" | ")[0].strip("| ") for text in lines] == [found.name for found in subclasses("Learner")]
    assert line(atlas.atlas(tmp_path), "ProtoNet")[4] == "not measured"


def test_a_line_has_the_claim_what_others_got_ours_and_how_much_less_was_trained(
    atlas: ModuleType, tmp_path: Path
) -> None:
    claim = {"metric": "accuracy", "measured": 98.0, "short_by": 0.8}
    name = "omniglot-5w1s-protonet-cpu"
    rows = [row(name, 60, claim=claim | {"measured": 50.0}), row(name, 120, claim=claim)]
    write(tmp_path, made_up={"rows": rows}, unlisted={"rows": [row(name, 999, claim=claim | {"measured": 99.0})]})
    _, recipe, published, others, ours, why = line(atlas.atlas(tmp_path), "ProtoNet")
    assert recipe == f"`{name}`"
    assert published.startswith("98.8 %, Snell et al. 2017")
    assert "98.4, users of the authors' code, jakesnell/prototypical-networks issue 2" in others
    assert ours == "98.00 %, short by 0.80"
    assert re.fullmatch(r"120 steps in 2\.0 min; `omniglot-5w1s-protonet` has [\d,]+ steps of \d+ tasks?", why)
    write(tmp_path, "later", made_up={"rows": rows})
    assert line(atlas.atlas(tmp_path), "ProtoNet")[4] == "98.00 %, short by 0.80 (of an older version)"


def test_without_a_claim_the_seeds_of_the_longest_training_are_averaged(atlas: ModuleType, tmp_path: Path) -> None:
    name = "omniglot-5w1s-hypernetwork-cpu"
    rows = [row(name, 60), row(name, 120, accuracy_percent=96.0), row(name, 120, accuracy_percent=98.0)]
    run = {"recipe": "gp-rbf-convcnp-cpu", "steps": 36000, "training_seconds": 600, "git_tree": "now"}
    write(tmp_path, made_up={"rows": rows}, other={"run": run, "gap": {"mean": 0.00261}})
    assert line(atlas.atlas(tmp_path), "HyperNetwork")[2:5] == ["none claimed", "", "97.00 %, the mean of 2 seeds"]
    assert line(atlas.atlas(tmp_path), "ConvCNP")[4:] == ["0.0026 nats above the optimum", "36,000 steps in 10.0 min"]


def test_a_number_that_could_not_be_read_is_printed_so_and_every_claim_has_its_differences(
    atlas: ModuleType, tmp_path: Path
) -> None:
    write(tmp_path)
    claims, differences = atlas.claims(tmp_path), atlas.differences(tmp_path)
    assert line(claims, "`gp-rbf-tnpd`")[1].startswith("1.39 nats log likelihood (not verified), Nguyen")
    claiming = [text.split(" | ")[0].strip("| `") for text in claims.splitlines()[2:]]
    assert set(claiming) < set(recipes())
    assert [text.split(":")[0].strip("- `") for text in differences.splitlines()] == claiming
