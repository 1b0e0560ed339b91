"""Made recommendation data against the equations written out, and census files in their exact layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import SHORT

from metabox.arrays import Floats
from metabox.cli.main import main
from metabox.episodes import Episodes
from metabox.targets import Binary, Reals
from metabox.targets.parts import Part
from metabox.tasks.multitask.census import COLUMNS, CensusIncome, Inputs, read_columns, read_labels
from metabox.tasks.multitask.recommendation import CorrelatedRegressions, ManyTargets, Viewers, related_weights
from metabox.tasks.place import Place

BOTH = [CorrelatedRegressions, Viewers]


def drawn(tasks: ManyTargets, n_tasks: int = 1) -> tuple[Floats, Floats]:
    query = tasks.sample(Place(n_tasks, "train")).query
    return query.x.flatten(0, 1).double().numpy(), query.y.flatten(0, 1).double().numpy()


def inverse_softplus(scale: float) -> float:
    return math.log(math.expm1(scale))


def assert_same(a: Episodes, b: Episodes) -> None:
    for x, y in ((a.query.x, b.query.x), (a.query.y, b.query.y), (a.oracle, b.oracle)):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 0.9, 1.0])
def test_the_two_weights_are_of_norm_1_at_an_angle_of_cosine_p(p: float) -> None:
    a, b = related_weights(100, p, seed=3)
    np.testing.assert_allclose([a @ a, b @ b, a @ b], [1, 1, p], atol=1e-12)


def test_correlated_regressions_are_the_equations_of_the_paper() -> None:
    """Ma et al. 2018, equations 2 to 4, one example and one sine at a time."""
    tasks = CorrelatedRegressions(0.6, dim=7, sines=3, scale=1.5, n_query=20)
    u = tasks._weights[0] / 1.5
    rest = tasks._weights[1] / 1.5 - 0.6 * u
    assert abs(u @ rest) < 1e-12  # p u1 and sqrt(1 - p^2) u2
    assert abs(rest @ rest - (1 - 0.6**2)) < 1e-12
    x, y = drawn(tasks)
    means = tasks.means(x)
    for m in range(20):
        for k in (0, 1):
            along = sum(tasks._weights[k, j] * x[m, j] for j in range(7))
            wave = sum(math.sin(tasks._alpha[i] * along + tasks._beta[i]) for i in range(3))
            assert abs(means[m, k] - (along + wave)) < 1e-12
            assert abs(y[m, k] - means[m, k]) < 0.6  # six standard deviations of the noise


def test_noise_has_variance_001_and_is_drawn_for_each_target() -> None:
    tasks = CorrelatedRegressions(1.0, dim=5, n_query=5000)
    x, y = drawn(tasks)
    noise = y - tasks.means(x)
    np.testing.assert_allclose(np.cov(noise.T), 0.01 * np.eye(2), atol=0.0007)
    np.testing.assert_allclose(tasks.means(x)[:, 0], tasks.means(x)[:, 1], atol=1e-12)  # p = 1


def test_targets_are_as_correlated_as_their_weights_allow() -> None:
    correlations = []
    for p in (0.0, 0.5, 0.9, 1.0):
        seeds = [drawn(CorrelatedRegressions(p, dim=10, n_query=4000, data_seed=seed))[1] for seed in range(8)]
        correlations.append(np.mean([np.corrcoef(y.T)[0, 1] for y in seeds]))
    assert correlations == sorted(correlations)
    assert abs(correlations[0]) < 0.1 < 0.95 < correlations[-1]


def test_without_sines_the_correlation_of_the_targets_is_p() -> None:
    _, y = drawn(CorrelatedRegressions(0.7, sines=0, n_query=20000))
    assert abs(np.corrcoef(y.T)[0, 1] - 0.7 / 1.01) < 0.02  # the noise is not shared


def test_the_oracle_of_regressions_is_the_likelihood_of_the_true_means_and_noise() -> None:
    tasks = CorrelatedRegressions(0.5, n_query=50)
    episodes = tasks.sample(Place(3, "test"))
    mean = torch.from_numpy(tasks.means(episodes.query.x.double().numpy())).float()
    likelihood = tasks.spec.target
    raw = torch.full((3, 50, 1), inverse_softplus(0.1 - 0.01))  # above the least scale of the likelihood
    params = torch.cat([mean[..., :1], raw, mean[..., 1:], raw], -1)
    log_prob = -likelihood.nll(params, episodes.query.y, episodes.query.mask)
    torch.testing.assert_close(episodes.oracle, log_prob, rtol=1e-4, atol=1e-4)
    entropy = math.log(0.1) + 0.5 * math.log(2 * math.pi * math.e)
    assert abs(float(episodes.oracle.mean()) + 2 * entropy) < 0.3


def test_the_oracle_of_viewers_is_the_likelihood_of_the_true_probabilities() -> None:
    tasks = Viewers(0.5, noise=0.5, n_query=40)
    episodes = tasks.sample(Place(3, "test"))
    engaging, satisfying = torch.from_numpy(tasks.appeals(episodes.query.x.double().numpy())).float().unbind(-1)
    raw = torch.full_like(engaging, inverse_softplus(0.5 - 0.01))
    params = torch.stack([2 * engaging, engaging, raw, 2 * satisfying, satisfying, raw], -1)
    log_prob = -tasks.spec.target.nll(params, episodes.query.y, episodes.query.mask)
    torch.testing.assert_close(episodes.oracle, log_prob, rtol=1e-4, atol=1e-4)


def test_viewers_have_two_heads_of_engagement_and_two_of_satisfaction() -> None:
    assert Viewers().spec.target.parts == (
        Part("clicked", Binary(1)),
        Part("watched", Reals(1)),
        Part("liked", Binary(1)),
        Part("rating", Reals(1)),
    )


def test_only_clicked_videos_are_watched_and_liked_and_only_some_of_them_are_rated() -> None:
    _, y = drawn(Viewers(rated=0.2, n_query=5000))
    clicked = y[:, 0] == 1
    assert not np.isnan(y[:, 0]).any()
    assert (np.isnan(y[:, 1]) == ~clicked).all()
    assert (np.isnan(y[:, 2]) == ~clicked).all()
    rated = ~np.isnan(y[:, 3])
    assert not (rated & ~clicked).any()
    assert abs(rated[clicked].mean() - 0.2) < 0.02


def test_appeals_have_variance_1_and_correlation_p_and_clicks_follow_them() -> None:
    tasks = Viewers(0.6, n_query=20000)
    x, y = drawn(tasks)
    appeals = tasks.appeals(x)
    np.testing.assert_allclose(np.cov(appeals.T), [[1, 0.6], [0.6, 1]], atol=0.06)
    chance = 1 / (1 + np.exp(-2 * appeals[:, 0]))
    for low, high in ((0, 0.2), (0.4, 0.6), (0.8, 1)):
        among = (chance >= low) & (chance < high)
        assert abs(y[among, 0].mean() - chance[among].mean()) < 0.03


@pytest.mark.parametrize("kind", BOTH)
def test_a_row_depends_on_its_number_alone(kind: type[ManyTargets]) -> None:
    tasks = kind(n_query=6)
    whole = tasks.sample(Place(5, "train", index=2, seed=1))
    assert_same(whole, kind(n_query=6).sample(Place(5, "train", index=2, seed=1)))
    assert_same(whole[2:4], tasks.sample(Place(2, "train", index=2, first=2, seed=1)))
    for other in ({"split": "val"}, {"seed": 2}, {"index": 3}):
        again = tasks.sample(Place(**{"n_tasks": 5, "index": 2, "seed": 1} | other))
        assert not torch.equal(whole.query.x, again.query.x)


@pytest.mark.parametrize("kind", BOTH)
def test_another_data_seed_is_another_truth_and_the_same_inputs(kind: type[ManyTargets]) -> None:
    one, two = (kind(n_query=6, data_seed=seed).sample(Place(2, "train")) for seed in (0, 1))
    assert torch.equal(one.query.x, two.query.x)
    assert not torch.equal(one.query.y.nan_to_num(), two.query.y.nan_to_num())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Viewers().sample(Place(0, "train")), "n_tasks as a whole number of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


WIDOW = (
    "73, Not in universe, 0, 0, High school graduate, 0, Not in universe, Widowed, Not in universe or children, "
    "Not in universe, White, All other, Female, Not in universe, Not in universe, Not in labor force, 0, 0, 0, "
    "Nonfiler, Not in universe, Not in universe, Other Rel 18+ ever marr not in subfamily, "
    "Other relative of householder, 1700.09, ?, ?, ?, Not in universe under 1 year old, ?, 0, Not in universe, "
    "United-States, United-States, United-States, Native- Born in the United States, 0, Not in universe, 2, 0, 95, "
    "- 50000.\n"
)
DOCTOR = (
    WIDOW.replace("73,", "33,")
    .replace("High school graduate", "Doctorate degree(PhD EdD)")
    .replace("Widowed", "Never married")
    .replace("- 50000.", "50000+.")
    .replace(" 95,", " 94,")
)


def census(folder: Path, train: str = WIDOW + DOCTOR, test: str = DOCTOR + WIDOW) -> Path:
    folder = folder / "census-income"
    folder.mkdir(parents=True)
    (folder / "census-income.data").write_text(train)
    (folder / "census-income.test").write_text(test)
    return folder


def test_census_columns_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    columns = read_columns(census(tmp_path) / "census-income.data")
    assert tuple(columns) == COLUMNS
    assert len(COLUMNS) == 42
    widow = {name: str(values[0]) for name, values in columns.items()}
    known = {"age": "73", "education": "High school graduate", "marital_status": "Widowed", "sex": "Female"}
    known |= {"instance_weight": "1700.09", "migration_msa": "?", "veterans_benefits": "2", "year": "95"}
    assert {name: widow[name] for name in known} == known
    assert widow["income"] == "- 50000."


def test_census_labels_are_income_degree_and_never_married(tmp_path: Path) -> None:
    columns = read_columns(census(tmp_path) / "census-income.data")
    assert read_labels(columns).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_census_inputs_are_scaled_numbers_and_one_hot_values_without_labels_or_weight(tmp_path: Path) -> None:
    columns = read_columns(census(tmp_path) / "census-income.data")
    inputs = Inputs(columns)
    x = inputs(columns)
    assert x.shape == (2, 7 + 30 + 2)  # seven numbers, 30 columns of one value, and the year has two
    assert x[:, 0].tolist() == [1, -1]  # 73 and 33: mean 53, deviation 20
    assert x[:, 1:7].tolist() == [[0] * 6] * 2  # all alike
    assert x[:, 7:].sum() == 2 * 31  # one value of every column
    assert sorted(x[0, 7:] - x[1, 7:]) == [-1, *[0] * 30, 1]  # the year


def test_a_value_that_training_does_not_have_is_all_zeros(tmp_path: Path) -> None:
    folder = census(tmp_path, test=WIDOW.replace(" White,", " Other,"))
    inputs = Inputs(read_columns(folder / "census-income.data"))
    whole, partly = (inputs(read_columns(folder / f"census-income.{part}")) for part in ("data", "test"))
    difference = whole[0] - partly[0]
    assert difference.sum() == 1
    assert (difference != 0).sum() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got no lines"),
        (WIDOW + WIDOW.replace(" ?,", "", 1), "got 41 in line 2"),
        (WIDOW.replace("- 50000.", "<=50K"), "got <=50K"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = census(tmp_path, train=text)
    with pytest.raises(ValueError, match=message):
        read_columns(folder / "census-income.data")


def test_numbers_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = census(tmp_path, train=WIDOW.replace("73,", "old,"))
    with pytest.raises(ValueError, match="expected numbers in the column age"):
        Inputs(read_columns(folder / "census-income.data"))


@pytest.mark.parametrize(("pair", "first"), [("income", 0), ("education", 1)])
def test_census_income_is_one_task_of_two_parts(tmp_path: Path, pair: str, first: int) -> None:
    unlike = DOCTOR.replace("50000+.", "- 50000.")  # a degree without the income
    census(tmp_path, train=(WIDOW + unlike) * 8, test=(WIDOW + unlike) * 64)
    tasks = CensusIncome(pair, data_root=str(tmp_path), n_query=4)
    assert [(part.name, part.target) for part in tasks.spec.target.parts] == [
        (pair, Binary(1)),
        ("marital_status", Binary(1)),
    ]
    for split in ("train", "val", "test"):
        episodes = tasks.sample(Place(3, split))
        tasks.spec.check_episodes(episodes)
        doctors = episodes.query.x[..., 0] < 0  # 33 years, not 73
        assert episodes.query.y[..., 0].tolist() == (doctors.float() * first).tolist()
        assert episodes.query.y[..., 1].tolist() == doctors.float().tolist()


def test_validation_and_test_are_halves_of_the_test_file(tmp_path: Path) -> None:
    lines = [WIDOW.replace("73,", f"{age},") for age in range(400)]
    census(tmp_path, train=lines[0], test="".join(lines[100:]))
    tasks = CensusIncome(data_root=str(tmp_path), n_query=50)
    found = [
        {i for index in range(40) for i in tasks.sample(Place(2, split, index=index)).origin.flatten().tolist()}
        for split in ("train", "val", "test")
    ]
    assert found[0] == {0}
    assert not found[1] & found[2]
    assert found[1] | found[2] == set(range(1, 301))
    assert 100 < len(found[1]) < 200


def test_census_files_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"census-income\.data and census-income\.test in census-income/ under"):
        _ = CensusIncome(data_root=str(tmp_path)).spec


@pytest.mark.parametrize("recipe", ["census-income-mmoe", "census-education-mmoe"])
def test_the_recipes_of_the_census_take_a_step_on_it(tmp_path: Path, recipe: str) -> None:
    census(tmp_path, train=(WIDOW + DOCTOR) * 40, test=(DOCTOR + WIDOW) * 40)
    assert main(["train", recipe, *SHORT, "--data-root", str(tmp_path), "--out", str(tmp_path / "run")]) == 0
