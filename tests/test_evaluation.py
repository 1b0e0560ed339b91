"""Evaluation: one fixed list of tasks, no trace left on the learner, intervals and calibration by their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import t as student
from torch import Tensor

from metabox.episodes import Device, Episodes, Examples
from metabox.evaluation import Scores, accuracy_by_instance, calibration_error, evaluate, normalisation
from metabox.learners.base import Learner, Phi
from metabox.learners.cnp import CNP
from metabox.learners.lstm import LSTM
from metabox.memorisation import memorisation
from metabox.nn.backbones import Conv4
from metabox.objectives import StreamLoss
from metabox.targets import Classes, Reals, TaskSpec
from metabox.tasks import GaussianProcess
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.testing import build


class Images(EpisodeSampler):
    """Noise, some of it padding with a label of -1; the last class is missing in every other task."""

    spec = TaskSpec((1, 16, 16), Classes(3))

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, str, int]] = []

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        self.asked.append((place.index, place.n_tasks, place.first, place.split, place.seed))
        draws = place.draws("images")
        x = torch.from_numpy(draws.words("x", 9, 1, 16, 16) >> 24).to(torch.uint8)
        ways = 2 + torch.from_numpy(draws.tasks) % 2
        y = torch.from_numpy(draws.words("y", 9)) % ways[:, None]
        mask = torch.from_numpy(draws.words("mask", 9) >> 30 > 0)
        mask[:, -1] = True
        y[~mask] = -1
        return Episodes(
            support=Examples(x=x[:, :5], y=y[:, :5], mask=mask[:, :5]).to(device),
            query=Examples(x=x[:, 5:], y=y[:, 5:], mask=mask[:, 5:]).to(device),
            classes=(torch.arange(3) < ways[:, None]).to(device),
        )


class RealVectors(EpisodeSampler):
    spec = TaskSpec((2,), Reals(2))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        words = place.draws("reals").words("x", 6, 2)
        x = torch.from_numpy(words).double().div(2**32).float().to(device)
        return Episodes(support=Examples(x=x[:, :3], y=x[:, :3]), query=Examples(x=x[:, 3:], y=-x[:, 3:]))


class Given(Learner):
    """Predicts what it was given, whatever the task."""

    def __init__(self, logits: Any) -> None:
        super().__init__(Images.spec)
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        return {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self.logits.expand(*x.shape[:2], 3)


def scores(values: list[float]) -> Scores:
    return Scores("test", 0, {"nll": values})


@pytest.mark.parametrize("n", [2, 3, 10, 600])
def test_the_interval_is_that_of_students_t(n: int) -> None:
    values = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)).tolist()
    mean, error = torch.tensor(values).double().mean(), torch.tensor(values).double().std() / math.sqrt(n)
    low, high = student.interval(0.95, n - 1, loc=mean, scale=error)
    got = scores(values)
    assert got.mean("nll") - got.interval("nll") == pytest.approx(low)
    assert got.mean("nll") + got.interval("nll") == pytest.approx(high)


def test_one_task_alone_says_nothing_about_the_spread() -> None:
    assert scores([1.0]).interval("nll") == math.inf


def test_the_summary_and_the_line_say_what_was_scored() -> None:
    result = Scores("val", 7, {"nll": [1.0, 2.0], "accuracy": [0.5, 1.0]}, pooled={"calibration_error": 0.125})
    summary = result.summary()
    assert {k: summary[k] for k in ("split", "seed", "n_tasks")} == {"split": "val", "seed": 7, "n_tasks": 2}
    assert summary["accuracy"] == {"mean": 0.75, "interval_95": pytest.approx(12.7062 * 0.25, rel=1e-5)}
    assert summary["calibration_error"] == 0.125
    assert str(result) == (
        "accuracy 75% ± 3.2e+02%, nll 1.5 ± 6.4, calibration error 0.125 (2 val tasks, 95% interval over tasks)"
    )


def test_calibration_error_is_the_mean_gap_of_15_bins_weighted_by_their_size() -> None:
    """Bins are 1/15 wide; the gap of a bin is |its share of right answers - its mean confidence|."""
    # 0.62 and 0.65 share a bin, 0.68 has one of its own; ten or twenty bins would sort them otherwise
    confidence = torch.tensor([0.55] * 4 + [0.62, 0.65] + [0.68] + [0.95] * 10)
    correct = torch.tensor([1.0, 1, 0, 0] + [0, 0] + [1] + [1.0] * 10)
    by_hand = (4 * (0.55 - 0.5) + 2 * (0.635 - 0) + 1 * (1 - 0.68) + 10 * (1 - 0.95)) / 17
    assert calibration_error(confidence, correct) == pytest.approx(by_hand, abs=1e-6)


def test_a_forecaster_that_is_always_sure_and_right_in_half_of_the_cases_is_off_by_a_half() -> None:
    assert calibration_error(torch.ones(100), torch.arange(100) % 2.0) == pytest.approx(0.5)
    assert calibration_error(torch.full((100,), 0.75), (torch.arange(100) % 4 > 0).float()) == pytest.approx(
        0, abs=1e-6
    )


def test_scores_are_those_worked_out_by_hand() -> None:
    logits = [1.0, 0.0, 2.0]
    got = evaluate(Given(logits), Images(), n_tasks=6, batch=4)
    episodes = Images().sample(Place(6, "test"))
    assert episodes.classes is not None
    for t in range(6):
        ways = int(episodes.classes[t].sum())
        p = [math.exp(z) / sum(math.exp(z) for z in logits[:ways]) for z in logits[:ways]]
        real = [int(y) for y, m in zip(episodes.query.y[t], episodes.query.mask[t], strict=True) if m]
        assert got.per_task["nll"][t] == pytest.approx(-sum(math.log(p[y]) for y in real) / len(real), rel=1e-5)
        best = p.index(max(p))
        assert got.per_task["accuracy"][t] == pytest.approx(sum(y == best for y in real) / len(real))
    assert got.n_tasks == 6


def test_calibration_counts_real_queries_only() -> None:
    learner, episodes = Given([1.0, 0.0, 2.0]), Images().sample(Place(6, "test"))
    likelihood = Images.spec.target
    p = likelihood.log_probs(learner(episodes)).exp()
    mask = episodes.query.mask
    wanted = calibration_error(p.max(-1).values[mask], (p.argmax(-1) == episodes.query.y)[mask].float())
    assert not mask.all()
    assert evaluate(learner, Images(), n_tasks=6, batch=4).pooled == {"calibration_error": pytest.approx(wanted)}


def test_evaluation_leaves_no_trace_on_the_learner() -> None:
    learner = build(CNP, Images.spec).train()
    learner.decoder.eval()  # a part that was frozen stays so
    modes = [module.training for module in learner.modules()]
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    random = torch.get_rng_state()
    evaluate(learner, Images(), n_tasks=4)
    assert [module.training for module in learner.modules()] == modes
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in learner.parameters())


def test_modes_are_restored_when_evaluation_fails() -> None:
    learner = build(CNP, Images.spec).train()

    def fail(phi: Phi, x: Tensor) -> Tensor:
        raise KeyError("made up")

    learner.predict = fail
    with pytest.raises(KeyError, match="made up"):
        evaluate(learner, Images(), n_tasks=2)
    assert all(module.training for module in learner.modules())


@pytest.mark.parametrize(("tasks", "metrics"), [(Images, {"nll", "accuracy"}), (RealVectors, {"nll", "squared_error"})])
def test_no_score_depends_on_how_many_tasks_are_scored_at_a_time(
    tasks: type[EpisodeSampler], metrics: set[str]
) -> None:
    learner = build(CNP, tasks.spec)
    whole = evaluate(learner, tasks(), n_tasks=7)
    for batch in (1, 3, 7):
        part = evaluate(learner, tasks(), n_tasks=7, batch=batch)
        assert set(part.per_task) == metrics
        for name in metrics:
            assert part.per_task[name] == pytest.approx(whole.per_task[name], rel=1e-5)
        assert part.pooled == pytest.approx(whole.pooled, abs=1e-5)


def test_the_list_of_tasks_is_walked_once_from_its_start() -> None:
    tasks = Images()
    evaluate(build(CNP, Images.spec), tasks, n_tasks=7, batch=3, split="val", seed=5)
    assert tasks.asked == [(0, 3, 0, "val", 5), (0, 3, 3, "val", 5), (0, 1, 6, "val", 5)]


def test_a_seed_names_a_list_and_a_longer_list_begins_with_the_shorter() -> None:
    learner = build(CNP, Images.spec)
    first = evaluate(learner, Images(), n_tasks=5, seed=1)
    assert evaluate(learner, Images(), n_tasks=5, seed=1) == first
    longer = evaluate(learner, Images(), n_tasks=8, batch=5, seed=1)
    assert longer.per_task["nll"][:5] == first.per_task["nll"]
    for other in ({"seed": 2}, {"seed": 1, "split": "val"}):
        assert not set(evaluate(learner, Images(), n_tasks=5, **other).per_task["nll"]) & set(first.per_task["nll"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_predictions_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="expected finite predictions, got NaN or infinity"):
        evaluate(Given([0.0, bad, 0.0]), Images(), n_tasks=4)


def test_tasks_of_another_kind_and_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two samplers of one kind of task"):
        evaluate(build(CNP, Images.spec), RealVectors())
    with pytest.raises(ValueError, match="expected tasks of at most 2 classes, got 3"):
        evaluate(build(CNP, TaskSpec((1, 16, 16), Classes(2))), Images())
    for name in ("n_tasks", "batch"):
        with pytest.raises(ValueError, match=f"expected {name} as a whole number of at least 1, got 0"):
            evaluate(build(CNP, Images.spec), Images(), **{name: 0})


def test_a_learner_for_more_classes_than_the_tasks_have_is_scored() -> None:
    wide = build(CNP, TaskSpec((1, 16, 16), Classes(5)))
    narrow = CNP(Images.spec).eval()
    narrow.load_state_dict(wide.state_dict())
    got, wanted = (evaluate(learner, Images(), n_tasks=4).per_task["nll"] for learner in (wide, narrow))
    assert got == pytest.approx(wanted, rel=1e-5)


class NoWeights(Given):
    def __init__(self) -> None:
        super().__init__([1.0, 0.0, 2.0])
        logits = self.logits.detach()
        del self.logits
        self.logits = logits


def test_a_learner_without_weights_is_scored() -> None:
    assert evaluate(NoWeights(), Images(), n_tasks=2).n_tasks == 2


def test_the_gap_to_the_oracle_is_how_much_worse_than_the_best_possible_a_learner_is() -> None:
    tasks = GaussianProcess(n_support=3, n_query=5, max_points=None)
    got = evaluate(build(CNP, tasks.spec), tasks, n_tasks=4, batch=3)
    oracle = tasks.sample(Place(4, "test")).oracle
    assert got.per_task["gap_to_oracle"] == pytest.approx(
        [n + float(o) for n, o in zip(got.per_task["nll"], oracle, strict=False)]
    )
    assert min(got.per_task["gap_to_oracle"]) > 0
    assert "gap_to_oracle" not in evaluate(build(CNP, RealVectors.spec), RealVectors(), n_tasks=2).per_task


# ------------------------------------------------------------------ sequences


def test_accuracy_is_counted_at_each_instance_of_a_class() -> None:
    y = torch.tensor([[0, 1, 0, 0, 1, 2], [5, 5, 5, 5, 5, 5]])
    mask = torch.tensor([[True, True, True, True, True, False], [True, False, True, True, True, True]])
    correct = torch.tensor([[1.0, 0, 1, 0, 0, 9], [0, 9, 1, 1, 1, 0]])
    got = accuracy_by_instance(correct, Examples(x=torch.zeros(2, 6, 1), y=y, mask=mask))
    # task 0: firsts are 1 and 0, seconds 1 and 0, the only third is 0, and it has no fourth
    wanted = {"accuracy_instance_1": [0.5, 0], "accuracy_instance_2": [0.5, 1], "accuracy_instance_3": [0, 1]}
    assert {name: value.tolist() for name, value in got.items()} == wanted


def test_a_stream_is_scored_at_every_step_and_by_instance() -> None:
    learner, tasks = build(LSTM, Images.spec), Images()
    got = evaluate(learner, tasks, n_tasks=5, batch=2, objective=StreamLoss)
    for i in range(5):
        e = tasks.sample(Place(1, "test", first=i)).blanked()
        x, y, mask = (
            torch.cat([getattr(e.support, name), getattr(e.query, name)], 1)[0] for name in ("x", "y", "mask")
        )
        seen, right = [], []
        for x_t, y_t in zip(x[mask], y[mask], strict=True):
            past = Examples(x=x[mask][None, : len(seen)], y=y[mask][None, : len(seen)])
            logits = learner.predict(learner.adapt(past, None, e.classes), x_t[None, None])[0, 0].detach()
            right.append(float(logits.argmax() == y_t))
            seen.append(int(y_t))
        assert got.per_task["accuracy"][i] == pytest.approx(sum(right) / len(right))
        firsts = [r for k, r in enumerate(right) if seen[k] not in seen[:k]]
        assert got.per_task["accuracy_instance_1"][i] == pytest.approx(sum(firsts) / len(firsts))
    assert "accuracy_instance_9" not in got.per_task  # no task has a class so often


# ------------------------------------------------------------------ memorisation


class Nearest(Learner):
    """Names a query like the support image that it is equal to."""

    def __init__(self) -> None:
        super().__init__(Doubles.spec)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        return {"x": support.x, "y": support.y}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        same = (x[:, :, None] == phi["x"][:, None]).all(-1).float()  # [T, M, N]
        return 9 * same @ torch.nn.functional.one_hot(phi["y"], 3).float()


class ByHeart(Nearest):
    """Knows the name of each image from training and does not look at the support."""

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return 9 * torch.nn.functional.one_hot(x[..., 0].long(), 3).float()


class Doubles(EpisodeSampler):
    """The support is each class once, the queries are the same again; x tells the class, as it must not."""

    spec = TaskSpec((1,), Classes(3))

    def __init__(self, ways: int = 3) -> None:
        self.ways = ways

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        y = torch.arange(self.ways).expand(place.n_tasks, -1)
        examples = Examples(x=y[..., None].float(), y=y)
        mask = (torch.arange(3) < self.ways).expand(place.n_tasks, -1)
        return Episodes(support=examples, query=examples, classes=mask)


@pytest.mark.parametrize("ways", [2, 3])
def test_a_learner_that_reads_the_support_follows_the_names_and_one_that_knows_them_by_heart_does_not(
    ways: int,
) -> None:
    reads, by_heart = memorisation(Nearest(), Doubles(ways)), memorisation(ByHeart(), Doubles(ways))
    assert (reads["accuracy_renamed"], reads["accuracy_old_names"]) == (1, 0)
    assert (by_heart["accuracy_renamed"], by_heart["accuracy_old_names"]) == (0, 1)
    assert evaluate(ByHeart(), Doubles(ways)).mean("accuracy") == 1  # which is what makes the check worth its while


@pytest.mark.parametrize(("learner", "renamed", "old"), [(Nearest(), 1, 0), (ByHeart(), 0, 1)])
def test_the_names_of_a_stream_are_counted_at_the_instance_that_is_asked_for(
    learner: Learner, renamed: float, old: float
) -> None:
    """Each class comes twice; before its first instance nobody can know its name."""
    got = memorisation(learner, Doubles(), objective=StreamLoss, metric="accuracy_instance_2")
    assert got == {
        "metric": "accuracy_instance_2",
        "accuracy_renamed": renamed,
        "accuracy_old_names": old,
        "n_tasks": 100,
    }
    first = memorisation(learner, Doubles(), objective=StreamLoss, metric="accuracy_instance_1")
    assert first["accuracy_renamed"] < 1
    with pytest.raises(ValueError, match=r"expected a metric among .*accuracy_instance_2, got 'accuracy_instance_9'"):
        memorisation(learner, Doubles(), objective=StreamLoss, metric="accuracy_instance_9")


def test_names_can_be_exchanged_for_classes_only() -> None:
    with pytest.raises(ValueError, match="expected tasks of classes, got Reals"):
        memorisation(build(CNP, RealVectors.spec), RealVectors())


# ------------------------------------------------------------------ whose statistics


@pytest.mark.parametrize(
    ("norm", "says", "transductive"),
    [("batch", "running statistics", False), ("support", "support", False), ("transductive", "TRANSDUCTIVE", True)],
)
def test_a_result_says_whose_statistics_normalise_an_image(norm: str, says: str, transductive: bool) -> None:
    got = normalisation(CNP(Images.spec, backbone=lambda shape: Conv4(shape, norm=norm)))
    assert says in got["batch_norm"]
    assert got["transductive"] is transductive
    assert normalisation(CNP(RealVectors.spec))["batch_norm"].startswith("no normalisation")


def test_scores_by_task_need_names_and_a_metric_that_is_there() -> None:
    scores = Scores("test", 0, {"nll": [1.0, 2.0], "accuracy_cls": [0.5, 1.0]})
    with pytest.raises(ValueError, match=r"expected scores of tasks with names, got none"):
        scores.by_task("accuracy_cls")
    with pytest.raises(ValueError, match=r"expected one of the metrics .*, got 'auc'"):
        scores.by_task("auc")
    named = Scores("test", 0, {"nll": [1.0, 2.0, 3.0]}, tasks=["a", "b", "a"])
    assert named.by_task("nll") == {"a": 2.0, "b": 2.0}
