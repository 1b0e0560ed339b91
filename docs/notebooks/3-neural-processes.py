# %% [markdown]
# # Neural processes against the exact posterior
#
# Functions drawn from a Gaussian process have a known best answer: the posterior. A neural process learns to predict from
# samples of functions alone, without being told the kernel. How close does it come?

# %% tags=["parameters"]
STEPS = 2000  # training steps of each learner
TEST_TASKS = 500

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch

import metabox
from metabox import Place
from metabox.learners import ACNP, CNP, ConvCNP
from metabox.tasks import GaussianProcess
from metabox.tasks.functions.kernels import RBF

LENGTH, NOISE = 0.25, 0.2
tasks = GaussianProcess(kernel=RBF(length_scale=LENGTH), noise=NOISE, n_support=(0, 20), n_query=30, max_points=None)

# %% [markdown]
# ## Training
#
# A mean over the context (CNP), attention over it (ACNP), and a convolution on a grid (ConvCNP), which is equivariant to
# shifts of x.

# %%
makers = {
    "CNP": partial(CNP, width=64),
    "ACNP": partial(ACNP, width=64),
    "ConvCNP": partial(ConvCNP, points_per_unit=16, width=32, depth=3),
}
outer = metabox.OuterLoop(
    steps=STEPS, n_tasks=16, lr=2e-3, validate_every=max(1, STEPS // 2), n_validation=min(100, TEST_TASKS)
)
learners = {name: metabox.run(tasks, make, outer, out=f"runs/gp/{name}") for name, make in makers.items()}

# %% [markdown]
# ## The exact posterior
#
# For context inputs $X$ with targets $Y$, kernel $k$ and noise variance $\sigma^2$, the predictive distribution at $x$ is
# normal with mean $k(x, X)(k(X, X) + \sigma^2 I)^{-1} Y$ and variance
# $k(x, x) + \sigma^2 - k(x, X)(k(X, X) + \sigma^2 I)^{-1} k(X, x)$.


# %% alt="Three panels: mean and 95 % interval of CNP, ACNP and ConvCNP over those of the exact posterior"
def posterior(x, y, at):
    def k(a, b):
        return np.exp(-0.5 * (a[:, None] - b) ** 2 / LENGTH**2)

    weights = np.linalg.solve(k(x, x) + NOISE**2 * np.eye(len(x)), k(x, at)).T
    return weights @ y, np.sqrt(1 + NOISE**2 - (weights * k(at, x)).sum(1))


context = GaussianProcess(kernel=RBF(length_scale=LENGTH), noise=NOISE, n_support=6, n_query=1, max_points=None).sample(
    Place(1, "test")
)
x, y = (part[0, :, 0].double().numpy() for part in (context.support.x, context.support.y))
at = np.linspace(-2, 2, 161)
mean, std = posterior(x, y, at)

figure, axes = plt.subplots(1, len(learners), figsize=(9, 2.7), sharey=True, layout="constrained")
for axis, (name, learner) in zip(axes, learners.items(), strict=True):
    with torch.no_grad():
        params = learner.predict(learner.adapt(context.support), torch.tensor(at, dtype=torch.float32)[None, :, None])
        target = learner.spec.target
        low, high = (target.quantile(params, q)[0, :, 0].numpy() for q in (0.025, 0.975))
        guess = target.mean(params)[0, :, 0].numpy()
    axis.fill_between(at, mean - 1.96 * std, mean + 1.96 * std, color="black", alpha=0.12, label="exact, 95 %")
    axis.plot(at, mean, color="black", linestyle="--", linewidth=1)
    axis.plot(at, guess, color="C0", label=name)
    axis.plot(at, low, at, high, color="C0", linewidth=0.7)
    axis.plot(x, y, "k.", markersize=6)
    axis.set_title(name)
plt.show()

# %% [markdown]
# ## The distance in nats
#
# `gap_to_oracle` is the difference of the log likelihoods of the query targets, per point: 0 is the exact posterior.

# %%
print(f"{'':8} {'gap to the posterior':>22} {'parameters':>12}")
for name, learner in learners.items():
    scores = metabox.evaluate(learner, tasks, n_tasks=TEST_TASKS)
    gap, half = scores.mean("gap_to_oracle"), scores.interval("gap_to_oracle")
    print(f"{name:8} {gap:14.4f} ± {half:.4f} {sum(p.numel() for p in learner.parameters()):12}")

# %% [markdown]
# ## Where the gap is
#
# By the number of points seen. A mean over the context loses detail just where there is detail to use.

# %% alt="Gap to the posterior of each learner against the number of points in the context"
sizes = (0, 1, 2, 5, 10, 20)
plt.figure(figsize=(6, 2.7), layout="constrained")
for name, learner in learners.items():
    gaps = []
    for n in sizes:
        of_n = GaussianProcess(kernel=RBF(length_scale=LENGTH), noise=NOISE, n_support=n, n_query=30, max_points=None)
        gaps.append(metabox.evaluate(learner, of_n, n_tasks=TEST_TASKS // 4 + 1).mean("gap_to_oracle"))
    plt.plot(sizes, gaps, marker="o", label=name)
plt.xlabel("points in the context")
plt.ylabel("gap, nats per point")
plt.ylim(0, None)
plt.legend(frameon=False)
plt.show()
