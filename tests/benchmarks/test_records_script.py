"""The script of the record recipes: what it trains, and how it counts a processor's time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from metabox import recipe
from metabox.files import read_json


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("records", "timed_runs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import records

    return records


def test_all_learners_have_the_backbone_the_augmentation_and_the_optimizer_of_the_recipe(records: ModuleType) -> None:
    parser = recipe.make_parser(recipe.find(records.RECIPE))
    ours = recipe.parse(parser, [])
    for name, words in records.LEARNERS.items():
        config = recipe.parse(parser, words)
        assert config.learner.class_path.endswith(f".{name}")
        backbone = config.learner.init_args.backbone
        norm = "transductive" if name == "MAML" else "batch"
        assert backbone.init_args.norm == norm
        backbone.init_args.norm = "batch"
        assert backbone == ours.learner.init_args.backbone
        assert config.tasks.init_args.augment == ours.tasks.init_args.augment
        assert config.tasks.init_args.image_size == config.evaluation.init_args.image_size == 42
        assert config.outer.optimizer == "muon"
        ways = max(n_way for n_way, *_ in records.SETTINGS.values())
        assert config.tasks.init_args.n_way >= ways


class Machine:
    """A command line whose training takes 3 seconds, and 0.5 for a step; the first one 10 more.

    half: the folder of a run that is stopped half way.
    """

    def __init__(self) -> None:
        self.now, self.calls, self.half = 0.0, [], ""

    def process_time(self) -> float:
        return self.now

    def train(self, words: list[str]) -> int:
        out = Path(words[words.index("--out") + 1])
        steps = int(words[words.index("--outer.steps") + 1])
        log = out / "metrics.jsonl"
        done = int(log.read_text().count("\n")) if log.exists() else 0
        stops = out.name == self.half and not done
        made = steps // 2 if stops else steps - done
        out.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(f'{{"step": {step + 1}}}\n' for step in range(done + made)))
        self.now += 3 + made / 2 + 10 * (not self.calls)
        self.calls.append(words)
        return 130 if stops else 0


@pytest.fixture
def machine(records: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Machine:
    import timed_runs

    made = Machine()
    monkeypatch.setattr(timed_runs, "metabox", made.train)
    monkeypatch.setattr(timed_runs.time, "process_time", made.process_time)
    return made


def test_a_budget_becomes_steps_once_and_the_time_of_all_calls_that_train_is_added_up(
    records: ModuleType, machine: Any, tmp_path: Path
) -> None:
    args = argparse.Namespace(more=[], runs=tmp_path / "runs")
    machine.half = "omniglot-record-incontext-ProtoNet-2min-seed1"
    with pytest.raises(SystemExit, match="130"):
        records.row_of("ProtoNet", 1, 2.0, args)
    for _ in range(2):  # it goes on; it is finished
        out = records.budgeted("ProtoNet", 2.0, 1, args)
    own = [words for words in machine.calls if str(out) in words]
    assert len(machine.calls) == 3 + 3
    assert own[0] == own[1] == own[2]
    assert own[0][own[0].index("--outer.steps") + 1] == "240"
    assert own[0][own[0].index("--learner") + 1] == "ProtoNet"
    assert read_json(out.with_suffix(".processor.json")) == {"seconds": 2 * (3 + 60)}


def test_what_was_measured_is_kept_and_what_cannot_be_trained_is_left_out(
    records: ModuleType, machine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen, without = {"git_tree": "b"}, [], {"MAML"}

    def measured(out: Path, args: argparse.Namespace) -> dict[str, Any]:
        seen.append(out.name)
        return dict(now)

    import timed_runs

    monkeypatch.setattr(records, "has", lambda package: "MAML" not in without)
    monkeypatch.setattr(records, "measured", measured)
    monkeypatch.setattr(timed_runs, "collect_environment", lambda: now)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    words = ["records.py", "beside", "--learners", "VERSA", "MAML", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", words)
    for tree, trained in (("b", ["VERSA"]), ("b", []), ("c", ["VERSA"])):
        now["git_tree"] = tree
        seen.clear()
        records.main()
        assert seen == [f"{records.RECIPE}-{name}-{records.MINUTES['beside'][0]:g}min-seed0" for name in trained]
        rows = read_json(tmp_path / "results" / "records-beside.json")["rows"]
        found = {row["learner"]: (row["git_tree"], row.get("left_out", "")) for row in rows}
        assert found["VERSA"] == (tree, "")
        assert found["MAML"][0] == tree
        assert found["MAML"][1].startswith("learn2learn is not installed")
    without.clear()
    seen.clear()
    records.main()
    assert [name.split("-")[3] for name in seen] == ["MAML"]


def test_a_training_that_is_refused_ends_the_script(
    records: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timed_runs

    monkeypatch.setattr(timed_runs, "metabox", lambda words: 2)
    with pytest.raises(SystemExit, match="2"):
        records.row_of("VERSA", 0, 1.0, argparse.Namespace(more=[], runs=tmp_path))


def test_the_table_has_a_line_for_each_learner_with_means_over_its_seeds(records: ModuleType) -> None:
    def row(learner: str, **percent: float) -> dict[str, Any]:
        scored = [{"task": f"Omniglot {name}", "accuracy_percent": value} for name, value in percent.items()]
        return {"learner": learner, "steps": 9, "accuracies": scored}

    rows = [row("A", s1=90.0, s5=95.0), row("A", s1=91.0, s5=96.0), row("B", s1=80.0)]
    assert records.by_learner([*rows, {"learner": "C", "left_out": "why"}]) == [
        {"learner": "A", "seeds": 2, "steps": 9, "s1": 90.5, "s5": 95.5},
        {"learner": "B", "seeds": 1, "steps": 9, "s1": 80.0},
        {"learner": "C", "seeds": 1, "steps": None},
    ]


def test_rows_that_another_process_adds_during_a_measurement_are_kept(
    records: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timed_runs

    monkeypatch.setattr(timed_runs, "collect_environment", lambda: {"git_tree": "b"})
    out = tmp_path / "table.json"

    def measure(key: dict[str, Any]) -> dict[str, Any]:
        if key["seed"] == 0:
            timed_runs.add_rows(out, [{"seed": 7}], lambda key: {}, {})
        return {}

    timed_runs.add_rows(out, [{"seed": 0}, {"seed": 1}], measure, {})
    assert [row["seed"] for row in read_json(out)["rows"]] == [7, 0, 1]
