"""Transfer between tasks: the relative performance by hand, and cosines of gradients that are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metabox.multitask.transfer import (
    GradientCosines,
    delta_percent,
    figure,
    gradient_cosines,
    hint,
    markdown,
    read_cosines,
    table,
)


class Told(nn.Module):
    """A learner of which all is shared."""

    def __init__(self, spec: Any, theta: nn.Parameter) -> None:
        super().__init__()
        self.spec, self.theta = spec, theta


class Known(nn.Module):
    """An objective with given gradients on `theta`; its batch norm and dropout would show a side effect."""

    def __init__(self, rows: list[list[float]], *, parts: bool = False) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)
        self.theta, self.other = nn.Parameter(torch.ones(len(rows[0]))), nn.Parameter(torch.ones(1))
        self.norm, self.drop = nn.BatchNorm1d(1), nn.Dropout(0.5)
        names = tuple("abcdefghijklmnop"[: len(rows)])
        spec = SimpleNamespace(
            tasks=() if parts else names,
            target=SimpleNamespace(parts=[SimpleNamespace(name=n, weight=1.0) for n in names if parts]),
        )
        self.learner: Any = Told(spec, self.theta)

    def at_scale_one(self, episodes: Any) -> dict[str, Tensor]:
        self.drop(self.norm(torch.randn(4, 1, generator=torch.Generator().manual_seed(0))))
        losses = self.rows @ self.theta + 7 * self.other
        if not self.learner.spec.tasks:
            labels = {f"labels_{p.name}": torch.ones(1) for _, p in self.parts()}
            return {"loss": losses.sum()[None]} | {f"loss_{p.name}": losses[i, None] for i, p in self.parts()} | labels
        return {"loss": losses[episodes.task] * episodes.scale}

    def parts(self) -> Any:
        return enumerate(self.learner.spec.target.parts)


def batch(*tasks: int) -> Any:
    return SimpleNamespace(task=torch.tensor(tasks), scale=torch.arange(1.0, len(tasks) + 1))


ROWS = [[3.0, 4.0], [-4.0, 3.0], [-6.0, -8.0]]
COSINES = [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]


def test_delta_percent_by_hand() -> None:
    # (+10 % better, 20 % worse, and an error that falls by a quarter): (10 - 20 + 25) / 3
    multi, single = {"a": 0.55, "b": 0.4, "c": 0.3}, {"a": 0.5, "b": 0.5, "c": 0.4}
    assert delta_percent(multi, single, {"a": "accuracy", "b": "accuracy_kind", "c": "squared_error"}) == pytest.approx(
        5
    )
    assert delta_percent(multi, single, "nll") == pytest.approx((-10 + 20 + 25) / 3)
    assert delta_percent(single, single, "accuracy") == 0


def test_better_is_above_zero_whatever_the_sign_of_the_score() -> None:
    assert delta_percent({"a": -1.0}, {"a": -2.0}, "log_likelihood") == pytest.approx(50)  # log likelihoods
    assert delta_percent({"a": -3.0}, {"a": -2.0}, "nll") == pytest.approx(50)


def test_the_table_has_means_and_intervals_over_seeds() -> None:
    multi, single = {"a": [0.6, 0.5, 0.7], "b": [0.2, 0.2, 0.2]}, {"a": [0.5, 0.5, 0.5], "b": [0.4, 0.4, 0.4]}
    a, b, average = table(multi, single, "accuracy")
    assert (a["task"], a["single"], a["multi"]) == ("a", pytest.approx(0.5), pytest.approx(0.6))
    assert a["delta"] == pytest.approx(20)  # changes of 20, 0 and 40: deviation 20, t = 4.303
    assert a["interval_95"] == pytest.approx(4.3027 * 20 / math.sqrt(3), rel=1e-4)
    assert (b["delta"], b["interval_95"]) == (pytest.approx(-50), pytest.approx(0, abs=1e-9))
    assert average["delta"] == pytest.approx((20 - 50) / 2)  # the mean of the tasks, as delta_percent
    assert average["interval_95"] == pytest.approx(4.3027 * 10 / math.sqrt(3), rel=1e-4)
    text = markdown([a, b, average])
    assert "| a | 0.5 | 0.6 | +20.00 ± 49.68 |" in text
    assert "| b | 0.4 | 0.2 | -50.00 ± 0.00 ▼ |" in text


def test_an_error_that_was_halved_is_a_gain_of_half() -> None:
    rows = table({"a": [0.5, 0.5]}, {"a": [1.0, 1.0]}, "squared_error")
    assert [row["delta"] for row in rows] == [50, 50]


def test_cosines_are_of_named_tasks_at_most_32(tmp_path: Path) -> None:
    many = Known([[1.0, float(k)] for k in range(16)])
    many.learner.spec.tasks = tuple(map(str, range(1000)))
    many.rows = torch.ones(1000, 2)
    for hook, names in (
        (GradientCosines(every=1), [str(k) for k in range(32)]),
        (GradientCosines(every=1, tasks=("999", "5")), ["999", "5"]),
    ):
        hook.check(many)
        hook.begin(many, tmp_path, 0)
        hook.before_step(0, batch(5, 999))
        tasks, _, cosines = read_cosines(tmp_path / "cosines.json")
        assert tasks == names
        assert cosines.shape == (1, len(names), len(names))
    assert cosines[0].flatten().tolist() == pytest.approx([1.0] * 4, abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    rows = table({"a": [2.0]}, {"a": [1.0]}, "accuracy")
    assert [row["interval_95"] for row in rows] == [None, None]
    assert "| a | 1 | 2 | +100.00 |" in markdown(rows)


@pytest.mark.parametrize("parts", [False, True])
def test_cosines_are_those_of_the_gradients_on_the_shared_parameters(parts: bool) -> None:
    objective = Known(ROWS, parts=parts)  # the other parameter has the same gradient for all, and would draw them to 1
    got = gradient_cosines(objective, batch(2, 0, 0, 1, 2), [objective.theta])
    torch.testing.assert_close(got, torch.tensor(COSINES))


def test_a_task_that_the_batch_lacks_or_without_a_gradient_has_no_cosine() -> None:
    got = gradient_cosines(objective := Known([*ROWS, [0.0, 0.0]]), batch(0, 0, 2, 3), [objective.theta])
    assert got.isnan().tolist() == [[bool(i in (1, 3) or j in (1, 3)) for j in range(4)] for i in range(4)]
    assert got[0, 2] == pytest.approx(-1)


def test_looking_at_the_cosines_changes_nothing() -> None:
    objective = Known(ROWS)
    objective.drop.eval()  # not all of it trains
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    with torch.no_grad():  # wherever it is called from
        gradient_cosines(objective, batch(0, 1, 2), [objective.theta])
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    assert (objective.training, objective.norm.training, objective.drop.training) == (True, True, False)
    assert objective.theta.grad is None


def begun(objective: Known, folder: Path, step: int = 0, every: int = 10) -> GradientCosines:
    (hook := GradientCosines(every)).check(objective)  # type: ignore[arg-type]
    hook.begin(objective, folder, step)  # type: ignore[arg-type]
    return hook


def test_a_record_is_json_and_a_resumed_run_goes_on_with_it(tmp_path: Path) -> None:
    hook = begun(Known(ROWS), tmp_path)
    for step in range(0, 45, 5):
        hook.before_step(step, batch(0, 1))
    resumed = begun(Known(ROWS), tmp_path, step=30)
    assert read_cosines(tmp_path / "cosines.json")[1] == [0, 10, 20]
    for step in range(30, 60, 10):
        resumed.before_step(step, batch(0, 1, 2))
    tasks, steps, cosines = read_cosines(tmp_path / "cosines.json")
    assert (tasks, steps) == (["a", "b", "c"], [0, 10, 20, 30, 40, 50])
    assert cosines[:3, 2].isnan().all()
    torch.testing.assert_close(cosines[3:], torch.tensor(COSINES).expand(3, 3, 3))
    json.loads((tmp_path / "cosines.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON


def test_a_run_that_begins_anew_leaves_no_record_of_another(tmp_path: Path) -> None:
    begun(Known(ROWS), tmp_path).before_step(0, batch(0, 1, 2))
    begun(Known(ROWS[:2]), tmp_path)
    assert read_cosines(tmp_path / "cosines.json")[:2] == (["a", "b"], [])


@pytest.mark.parametrize(
    "content",
    [
        {"tasks": ["a", "b"], "steps": [], "cosines": []},
        {"tasks": ["a", "b", "c"], "steps": 3, "cosines": []},
        {"tasks": ["a", "b", "c"], "steps": ["x"], "cosines": [[]]},
        {"tasks": ["a", "b", "c"], "steps": [0], "cosines": []},
        ["a", "b", "c"],
    ],
)
def test_a_record_of_other_tasks_or_of_none_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "cosines.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"cosines\.json.*; delete it"):
        begun(Known(ROWS), tmp_path, step=10)


def test_the_hint_names_the_pairs_beyond_the_thresholds_strongest_first() -> None:
    cosines = torch.eye(4)
    for i, j, value in ((0, 1, -0.3), (0, 2, 0.5), (1, 2, -0.11), (0, 3, 0.09), (1, 3, -0.09), (2, 3, math.nan)):
        cosines[i, j] = cosines[j, i] = value
    got = hint(cosines.expand(10, 4, 4), "abcd")
    assert [pair[:2] for pair in got.share_less] == [("b", "a"), ("c", "b")]
    assert [pair[:2] for pair in got.share_more] == [("c", "a")]
    unknown = "not enough batches with both, of the 10 that it takes: d and c (0)"
    assert str(got) == f"share less: b and a (-0.30), c and b (-0.11); share more: c and a (+0.50); {unknown}"


def test_the_hint_reads_the_mean_over_steps_and_may_have_nothing_to_say() -> None:
    swings = torch.stack([torch.tensor([[1.0, c], [c, 1.0]]) for c in (-0.9, 0.9, math.nan)])
    assert str(hint(swings[[0, 1] * 5], "ab")).startswith("leave the sharing as it is")
    assert hint(swings[[0, 2] * 10], "ab").share_less  # a step without the pair does not count


@pytest.mark.parametrize(("together", "known"), [(9, False), (10, True)])
def test_fewer_than_ten_batches_with_both_tasks_are_not_enough_for_a_hint(together: int, known: bool) -> None:
    cosines = torch.full((30, 2, 2), math.nan)
    cosines[:together] = -0.9
    got = hint(cosines, "ab")
    assert (got.share_less == (("b", "a", pytest.approx(-0.9)),)) is known
    assert ("not enough batches with both" in str(got)) is not known
    assert ("b and a (9)" in str(got)) is not known


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_figure_shows_the_matrix_along_training(steps: int, tmp_path: Path) -> None:
    cosines = torch.tensor(COSINES).repeat(steps, 1, 1)
    drawing = figure(["a", "b", "c"], list(range(steps)), cosines)
    drawing.savefig(tmp_path / "cosines.svg")
    matrices = [axes.images[0].get_array() for axes in drawing.axes if axes.images]
    assert len(matrices) >= 3
    assert matrices[0].tolist() == COSINES
    (line, _zero) = next(axes for axes in drawing.axes if axes.get_ylabel() == "cosine of pairs").lines
    assert list(line.get_ydata()) == pytest.approx([-1 / 3] * steps)


def test_many_tasks_have_a_figure_without_names() -> None:
    names = [str(k) for k in range(13)]
    drawing = figure(names, [0, 10], torch.eye(13).expand(2, -1, -1))
    assert all(not axes.get_xticklabels() for axes in drawing.axes if axes.get_title().startswith("steps"))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: delta_percent({"a": 1}, {"b": 1}, "nll"), "the same tasks"),
        (lambda: delta_percent({}, {}, "nll"), "the same tasks"),
        (lambda: delta_percent({"a": 1}, {"a": 0}, "nll"), "other than 0"),
        (lambda: delta_percent({"a": 1}, {"a": 1}, {"z": "nll"}), "metric of each task"),
        (lambda: GradientCosines(tasks=("a",)), "from 2 to 32 different tasks"),
        (lambda: GradientCosines(tasks=("a", "z")).check(Known(ROWS)), r"tasks to compare among a, b, c, got \['z'\]"),
        (lambda: table({"a": [1, 2]}, {"a": [1]}, "nll"), "as many seeds"),
        (lambda: table({}, {}, "nll"), "as many seeds"),
        (lambda: gradient_cosines(Known(ROWS[:1]), batch(0), []), "two named tasks"),
        (lambda: gradient_cosines(Known(ROWS), SimpleNamespace(task=None, scale=1), []), "which task each row is"),
        (lambda: GradientCosines(0), "at least 1, got 0"),
        (lambda: GradientCosines().check(Known(ROWS[:1])), "two named tasks"),
    ],
)
def test_bad_arguments_are_named(call: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
