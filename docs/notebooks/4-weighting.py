# %% [markdown]
# # Multi-task weighting
#
# Four labels for one input, of two kinds: is a video clicked, for how long is it watched, is it liked, how is it rated.
# What satisfies is opposed to what engages (`correlation` below 0), so the tasks compete for one small network. Does a
# weighting of the losses help, and against what?

# %% tags=["parameters"]
STEPS = 700  # training steps of each network
TEST_TASKS = 100
SEEDS = 2

# %%
from dataclasses import replace
from functools import partial
from statistics import fmean

import matplotlib.pyplot as plt

import metabox
from metabox import Parts, Reals
from metabox.learners import HardSharing, Independent, MMoE
from metabox.multitask import DWA, Fixed, GradNorm, Random, Uncertainty, WorstCase
from metabox.multitask.transfer import table
from metabox.nn.backbones import MLP
from metabox.tasks.multitask.recommendation import Viewers

tasks = Viewers(correlation=-0.5, n_query=128)
# Squared errors in standard units instead of a learned scale: Uncertainty learns the scales itself.
parts = tasks.spec.target.parts
target = Parts(tuple(replace(p, target=Reals(1, noise=1)) if p.target.word == "reals" else p for p in parts))

# %% [markdown]
# ## Training
#
# `Independent` is a network for each task: what every multi-task network is compared with. All others share a small
# network; the plain sum of the losses is the baseline of every weighting.

# %%
small = partial(HardSharing, backbone=partial(MLP, width=16))
rows = {
    "independent": (partial(Independent, width=16, depth=1), Fixed),
    "plain sum": (small, Fixed),
    "uncertainty": (small, Uncertainty),
    "gradnorm": (small, GradNorm),
    "dwa": (small, DWA),
    "worst case": (small, WorstCase),
    "random": (small, Random),
    "experts": (partial(MMoE, n_experts=4, expert_size=16, tower_size=8), Fixed),
}
outer = metabox.OuterLoop(steps=STEPS, n_tasks=1, lr=3e-3, validate_every=STEPS, n_validation=min(20, TEST_TASKS))
metrics = {p.name: "squared_error" if p.target.word == "reals" else "accuracy" for p in parts}


def scores_of(name, seed):
    make, weighting = rows[name]
    out = f"runs/weighting/{name}-{seed}"
    learner = metabox.run(tasks, make, outer, weighting=weighting, target=target, seed=seed, out=out)
    scores = metabox.evaluate(learner, tasks, n_tasks=TEST_TASKS)
    return {task: scores.mean(f"{metric}_{task}") for task, metric in metrics.items()}


results = {name: [scores_of(name, seed) for seed in range(SEEDS)] for name in rows}

# %% [markdown]
# ## Who wins and who loses
#
# The score of each task on test data (accuracy of `clicked` and `liked`, squared error of the others), and the average
# relative change against independent networks ($\Delta\%$, above 0 is better), as means over seeds. Two seeds say little
# about differences as small as those between weightings.


# %%
def by_task(name):
    return {task: [scores[task] for scores in results[name]] for task in metrics}


compared = {name: table(by_task(name), by_task("independent"), metrics) for name in rows}
print(f"{'':12} " + " ".join(f"{task:>9}" for task in metrics) + f" {'change %':>9}")
for name, lines in compared.items():
    print(f"{name:12} " + " ".join(f"{fmean(values):9.4f}" for values in by_task(name).values()), end="")
    print(f" {lines[-1]['delta']:9.2f}")

# %% alt="For each weighting, how much better or worse each of four tasks is than alone"
figure, axis = plt.subplots(figsize=(7.5, 3), layout="constrained")
shown = [name for name in rows if name != "independent"]
for k, task in enumerate(metrics):
    heights = [compared[name][k]["delta"] for name in shown]
    axis.bar([i + 0.2 * (k - 1.5) for i in range(len(shown))], heights, width=0.18, label=task)
axis.axhline(0, color="black", linewidth=0.8)
axis.set_xticks(range(len(shown)), shown)
axis.set_ylabel("better than alone by, %")
axis.legend(frameon=False, ncols=4)
plt.show()

# %% [markdown]
# A bar below 0 is negative transfer. A weighting moves the balance between the tasks; it does not give a small network
# more room. [Page 4 of the lecture](../lecture/4-negative-transfer.md) has larger tables and other remedies.
