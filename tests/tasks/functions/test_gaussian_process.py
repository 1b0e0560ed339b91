"""Gaussian process tasks: kernels, functions and oracles against scikit-learn, SciPy and brute force."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from recorded import NoWait
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from metabox.seeding import Draws
from metabox.tasks import RBF, GaussianProcess, Matern12, Matern32, Matern52, Periodic, WeaklyPeriodic
from metabox.tasks.functions.gaussian_process import JITTER, condition
from metabox.tasks.place import Place

SCALE, NOISE = 1.3, 0.2


def periodic(length_scale: float, period: float) -> sk.Kernel:
    return sk.ExpSineSquared(length_scale=length_scale, periodicity=period)


# Ours, and scikit-learn's of the same definition. Its periodic kernel is of the distance: the same for one input only.
KERNELS = {
    "RBF": (RBF(0.4, SCALE), sk.RBF(0.4)),
    "Matern12": (Matern12(0.4, SCALE), sk.Matern(0.4, nu=0.5)),
    "Matern32": (Matern32(0.4, SCALE), sk.Matern(0.4, nu=1.5)),
    "Matern52": (Matern52(0.4, SCALE), sk.Matern(0.4, nu=2.5)),
    "Periodic": (Periodic(0.8, 0.7, SCALE), periodic(0.8, 0.7)),
    "WeaklyPeriodic": (WeaklyPeriodic(0.8, 0.7, 0.9, SCALE), sk.RBF(0.9) * periodic(0.8, 0.7)),
}


def parts(episodes, t):
    """x and y of one task's support and query, in float64, without padding."""
    for e in (episodes.support, episodes.query):
        yield e.x[t][e.mask[t]].double().numpy()
        yield e.y[t][e.mask[t]].double().numpy()[:, 0]


def sampled(kernel, dim=1, **kwargs):
    """Some tasks: ragged sizes, a support of any size from none."""
    usual = {
        "noise": NOISE,
        "n_support": (0, 12),
        "n_query": (1, 6),
        "max_points": None,
        "share_sizes": 1,
        "train_oracle": True,
    }
    return GaussianProcess(kernel, dim=dim, **usual | kwargs).sample(Place(12, "train"))


@pytest.mark.parametrize(("name", "dim"), [(k, d) for k in KERNELS for d in (1, 2) if d == 1 or "Periodic" not in k])
def test_kernels_are_those_of_scikit_learn(name, dim):
    ours, theirs = KERNELS[name]
    a, b = (Draws("kernel", n_tasks=3).uniform(part, -2, 2, n, dim) for part, n in (("a", 5), ("b", 4)))
    hyper = {key: np.full(3, low) for key, (low, _) in ours.hyper.items()}
    got = ours(a, b, hyper)
    for t in range(3):
        np.testing.assert_allclose(got[t], SCALE**2 * theirs(a[t], b[t]), rtol=1e-12, atol=1e-15)


def test_the_periodic_kernel_of_two_inputs_is_the_rbf_of_points_on_two_circles():
    """So it is positive definite; and is the `periodic` of Bruinsma's kernels."""
    x = Draws("circles", n_tasks=1).uniform("x", -2, 2, 6, 2)
    on_circles = np.concatenate([np.sin(2 * np.pi * x / 0.7), np.cos(2 * np.pi * x / 0.7)], -1)
    hyper = {"length_scale": np.array([0.8]), "scale": np.array([1.0]), "period": np.array([0.7])}
    wanted = RBF()(on_circles, on_circles, hyper)
    np.testing.assert_allclose(Periodic()(x, x, hyper), wanted, rtol=1e-12)


def test_every_task_has_hyper_parameters_of_its_own():
    kernel = Matern32(length_scale=(0.1, 0.6), scale=(0.5, 2.0))
    hyper = kernel.draw(Draws("hyper", n_tasks=300), "k")
    assert not kernel.fixed
    assert RBF().fixed
    for name, (low, high) in kernel.hyper.items():
        assert low < hyper[name].min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < hyper[name].max() < high
    x = Draws("hyper", n_tasks=300).uniform("x", -2, 2, 3, 1)
    whole = kernel(x, x, hyper)
    for t in (0, 7, 299):
        alone = Matern32(float(hyper["length_scale"][t]), float(hyper["scale"][t]))
        np.testing.assert_allclose(
            whole[t], alone(x[t : t + 1], x[t : t + 1], alone.draw(Draws(n_tasks=1), "k"))[0], rtol=1e-12
        )


@pytest.mark.parametrize("name", KERNELS)
def test_the_diagonal_oracle_is_scikit_learns_predictive_density(name):
    ours, theirs = KERNELS[name]
    episodes = sampled(ours)
    for t in range(len(episodes)):
        xs, ys, xq, yq = parts(episodes, t)
        mean, std = np.zeros(len(xq)), np.full(len(xq), SCALE)
        if len(xs):
            model = GaussianProcessRegressor(SCALE**2 * theirs, alpha=NOISE**2, optimizer=None).fit(xs, ys)
            mean, std = model.predict(xq, return_std=True)
        wanted = norm.logpdf(yq, mean, np.sqrt(std**2 + NOISE**2)).mean()
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_the_joint_oracle_is_scipys_multivariate_normal_density(name, dim):
    kernel = KERNELS[name][0]
    episodes = sampled(kernel, dim, oracle_kind="joint")
    for t in range(len(episodes)):
        xs, ys, xq, yq = parts(episodes, t)

        def log_density(x, y):
            if not len(y):
                return 0.0
            hyper = {key: np.array([low]) for key, (low, _) in kernel.hyper.items()}
            return multivariate_normal.logpdf(y, cov=kernel(x[None], x[None], hyper)[0] + NOISE**2 * np.eye(len(x)))

        whole = log_density(np.concatenate([xs, xq]), np.concatenate([ys, yq]))
        wanted = (whole - log_density(xs, ys)) / len(yq)
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("kind", ["diagonal", "joint"])
def test_the_mixture_oracle_is_the_average_over_kernels_by_brute_force(kind):
    """Bayes' theorem, one kernel after the other, with full covariance matrices."""
    grid = [RBF(0.2), RBF(0.8, 2.0), Matern12(0.5), Periodic(1.0, 0.6, 0.7)]
    episodes = sampled(grid, oracle="mixture", oracle_kind=kind)
    used = 0
    for t in range(len(episodes)):
        xs, ys, xq, yq = parts(episodes, t)
        n, x = len(ys), np.concatenate([xs, xq])
        evidence, each, joint = [], [], []
        for kernel in grid:
            hyper = {key: np.array([low]) for key, (low, _) in kernel.hyper.items()}
            k = kernel(x[None], x[None], hyper)[0] + NOISE**2 * np.eye(len(x))
            evidence.append(multivariate_normal.logpdf(ys, cov=k[:n, :n]) if n else 0.0)
            gain = k[n:, :n] @ np.linalg.inv(k[:n, :n]) if n else np.zeros((len(yq), 0))
            mean, cov = gain @ ys, k[n:, n:] - gain @ k[:n, n:]
            each.append(norm.logpdf(yq, mean, np.sqrt(np.diag(cov))))
            joint.append(multivariate_normal.logpdf(yq, mean, cov))
        log_weight = np.array(evidence) - logsumexp(evidence)
        used += np.exp(log_weight).max() < 0.99
        if kind == "joint":
            wanted = logsumexp(log_weight + np.array(joint)) / len(yq)
        else:
            wanted = logsumexp(log_weight[:, None] + np.array(each), axis=0).mean()
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-6, abs=1e-7)
    assert used > 5, "the kernels must be hard to tell apart in some tasks, or weights are not tested"


def test_a_mixture_of_one_kernel_is_that_kernel():
    one, known = sampled([RBF()], oracle="mixture"), sampled(RBF())
    assert torch.equal(one.query.y, known.query.y)
    torch.testing.assert_close(one.oracle, known.oracle)


def test_on_average_the_known_kernel_beats_the_mixture_and_the_mixture_a_wrong_kernel():
    grid, tasks = [RBF(0.15), RBF(1.0)], 3000
    usual = {"noise": 0.1, "n_support": 3, "n_query": 10, "max_points": None}
    known, mixture = (
        GaussianProcess(grid, **usual, oracle=oracle, train_oracle=True).sample(Place(tasks, "train"))
        for oracle in ("known", "mixture")
    )
    x, y = (torch.cat([getattr(known.support, k), getattr(known.query, k)], 1).double().numpy() for k in "xy")
    wrong = GaussianProcess(grid[:1], **usual, oracle="mixture").score(
        x, y, np.empty(0), np.full(tasks, 3), np.full(tasks, 10)
    )
    scores = [known.oracle.double().numpy(), mixture.oracle.double().numpy(), wrong]
    for better, worse in pairwise(scores):
        gap = better - worse
        assert gap.mean() > 5 * gap.std() / math.sqrt(tasks)


def test_the_mean_oracle_is_minus_the_entropy():
    """Four inputs as good as equal, no support: covariance 1 + noise² on the diagonal, 1 beside it."""
    sampler = GaussianProcess(
        RBF(0.3),
        noise=0.3,
        n_support=0,
        n_query=4,
        max_points=None,
        oracle_kind="joint",
        low=0.0,
        high=1e-6,
        train_oracle=True,
    )
    scores = sampler.sample(Place(4000, "train")).oracle.double()
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * (np.ones((4, 4)) + 0.09 * np.eye(4)))[1]
    assert abs(scores.mean() + entropy / 4) < 4 * scores.std() / math.sqrt(4000)


@pytest.mark.parametrize("name", KERNELS)
def test_functions_have_the_covariance_of_their_kernel(name, monkeypatch):
    """The sample covariance of 20,000 functions at six points, each entry to five standard deviations."""
    kernel, n, tasks = KERNELS[name][0], 6, 20_000
    grid = np.linspace(-1, 1, n)[:, None]
    monkeypatch.setattr(
        GaussianProcess, "inputs", lambda self, draws, k: np.broadcast_to(grid, (len(draws.tasks), k, 1))
    )
    sampler = GaussianProcess(kernel, noise=NOISE, n_support=2, n_query=4, max_points=None, oracle="none")
    episodes = sampler.sample(Place(tasks, "train"))
    assert episodes.oracle is None
    y = torch.cat([episodes.support.y, episodes.query.y], 1)[..., 0].double().numpy()
    hyper = {key: np.array([low]) for key, (low, _) in kernel.hyper.items()}
    wanted = kernel(grid[None], grid[None], hyper)[0] + NOISE**2 * np.eye(n)
    # The standard deviation of the mean of y_i y_j is that of Isserlis' theorem.
    error = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / tasks)
    assert (np.abs(y.T @ y / tasks - wanted) < 5 * error).all()
    assert (np.abs(y.mean(0)) < 5 * np.sqrt(np.diag(wanted) / tasks)).all()


def test_inputs_are_uniform_in_their_box():
    episodes = GaussianProcess(dim=2, low=-1.0, high=3.0, n_support=50, n_query=50, max_points=None).sample(
        Place(50, "val")
    )
    x = torch.cat([episodes.support.x, episodes.query.x], 1).flatten(0, 1).double()
    assert x.min() > -1
    assert x.max() < 3
    assert (x.mean(0) - 1).abs().max() < 5 * (4 / math.sqrt(12)) / math.sqrt(5000)
    assert abs(np.corrcoef(x.T)[0, 1]) < 5 / math.sqrt(5000)


def test_each_kernel_of_a_list_is_drawn_equally_often():
    sampler = GaussianProcess([RBF(scale=1e-3), RBF(scale=1.0), RBF(scale=1e3)], noise=0.0, share_sizes=1)
    size = sampler.sample(Place(900, "train")).query.y[:, 0, 0].abs()
    counts = np.histogram(size, [0, 0.015, 15, 1e9])[0]
    assert (np.abs(counts - 300) < 5 * math.sqrt(900 * 2 / 9)).all()


def test_the_defaults_are_the_tasks_of_transformer_neural_processes():
    """regression/data/gp.py of their code: contexts randint(3, 47), targets randint(3, 50 - contexts), per batch."""
    sampler = GaussianProcess()
    seen = set()
    for index in range(400):
        episodes = sampler.sample(Place(16, "train", index=index))
        assert episodes.support.mask.all()
        assert episodes.query.mask.all()
        seen.add((episodes.support.x.shape[1], episodes.query.x.shape[1]))
    n, m = np.array(sorted(seen)).T
    assert n.min() == 3
    assert n.max() == 46
    assert m.min() == 3
    assert (n + m).max() == 49
    noise = GaussianProcess(RBF((0.1, 0.6), (1e-9, 1.1e-9))).sample(Place(300, "train")).query
    assert noise.y[noise.mask].std() == pytest.approx(0.02, rel=0.05)  # in the targets too


def test_without_noise_the_jitter_is_drawn_as_noise_and_the_oracle_stays_exact():
    options = {"n_support": 90, "n_query": 10, "max_points": None, "oracle_kind": "joint", "train_oracle": True}
    sampler = GaussianProcess(RBF(0.5, 2.0), 0.0, **options)
    episodes = sampler.sample(Place(4, "train"))
    for t in range(4):
        xs, ys, xq, yq = parts(episodes, t)
        x, y = np.concatenate([xs, xq]), np.concatenate([ys, yq])
        k = 4.0 * sk.RBF(0.5)(x) + 4.0 * JITTER * np.eye(100)
        wanted = (multivariate_normal.logpdf(y, cov=k) - multivariate_normal.logpdf(ys, cov=k[:90, :90])) / 10
        assert episodes.oracle[t].item() == pytest.approx(wanted, rel=1e-5)
        assert wanted > 5  # 90 points in 8 length scales: the function is known, but for the jitter


def test_points_beyond_a_task_change_nothing():
    draws = Draws("condition", n_tasks=2)
    a = draws.normal("a", 7, 7)
    factor, y = np.linalg.cholesky(a @ a.swapaxes(1, 2) + np.eye(7)), draws.normal("y", 7)
    n, m = np.array([2, 0]), np.array([3, 4])
    whole = condition(factor, y, n, m)
    for t in range(2):
        k = n[t] + m[t]
        alone = condition(factor[t : t + 1, :k, :k], y[t : t + 1, :k], n[t : t + 1], m[t : t + 1])
        assert alone.joint[0] == pytest.approx(whole.joint[t], rel=1e-12)
        assert alone.evidence[0] == pytest.approx(whole.evidence[t], rel=1e-12)
        np.testing.assert_allclose(alone.each[0], whole.each[t, :k], rtol=1e-12)
        assert not whole.each[t, k:].any()


def test_training_tasks_have_no_oracle_unless_it_is_asked_for_and_are_the_same_tasks():
    usual, asked = (GaussianProcess(train_oracle=wanted) for wanted in (False, True))
    for split in ("train", "val", "test"):
        without, with_it = (sampler.sample(Place(4, split)) for sampler in (usual, asked))
        assert (without.oracle is None) == (split == "train")
        assert with_it.oracle is not None
        assert torch.equal(without.query.y, with_it.query.y)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("name", [*KERNELS, "several"])
def test_computed_by_torch_functions_are_the_same_within_a_millionth(name, dim):
    """As on CUDA, but on the CPU."""
    ranges = [RBF(length_scale=(0.1, 0.6), scale=(0.1, 1.0)), Matern52(), Matern12()]
    kernel = ranges if name == "several" else KERNELS[name][0]
    noise = 0.0 if name == "Matern12" else (0.0, 0.1)  # without noise there is the jitter alone
    tasks = GaussianProcess(kernel, dim=dim, noise=noise, share_sizes=3, max_points=None)
    place = Place(16, "train", index=4, first=5, seed=1)
    wanted = tasks.sample(place)
    with NoWait():
        found = tasks._sample_on(place, torch.device("cpu"))
    assert found.oracle is None
    for a, b in ((found.support, wanted.support), (found.query, wanted.query)):
        assert torch.equal(a.mask, b.mask)
        assert torch.equal(a.x, b.x)
        assert a.y.dtype == torch.float32
        torch.testing.assert_close(a.y, b.y, rtol=0, atol=1e-6)


@pytest.mark.cuda
@pytest.mark.parametrize("split", ["train", "val"])
def test_on_a_gpu_functions_are_the_same_within_a_millionth(split):
    place = Place(64, split, index=2)
    there, here = (GaussianProcess(noise=(0.0, 0.1)).sample(place, device) for device in ("cuda", "cpu"))
    for a, b in ((there.support, here.support), (there.query, here.query)):
        assert a.y.is_cuda
        assert torch.equal(a.x.cpu(), b.x)
        torch.testing.assert_close(a.y.cpu(), b.y, rtol=0, atol=1e-6)
    assert (there.oracle is None) is (split == "train")
