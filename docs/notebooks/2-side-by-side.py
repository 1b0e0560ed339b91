# %% [markdown]
# # Black-box learners side by side
#
# Five ways to map a data set to a predictor, on tasks whose best possible answer is known: linear functions
# $y = w \cdot x + \varepsilon$ with a new $w$ in each task. No predictor has a smaller squared error than Bayesian ridge
# regression. All learners see the same training tasks for the same number of steps; they are small, and are not tuned.

# %% tags=["parameters"]
STEPS = 1500  # training steps of each learner
TEST_TASKS = 1000

# %%
import time
from functools import partial

import matplotlib.pyplot as plt
import torch

import metabox
from metabox import Place
from metabox.learners import CNP, LSTM, MANN, GatedDeltaNet, InContext
from metabox.nn.backbones import Flatten
from metabox.tasks import LinearFunctions
from metabox.tasks.functions.baselines import ridge

DIM, NOISE, LONGEST = 3, 0.3, 16
training = LinearFunctions(dim=DIM, noise=NOISE, n_support=(1, LONGEST), n_query=8, share_sizes=16, oracle=False)

# %% [markdown]
# ## Training
#
# A recurrent network, one with a memory, a recurrent network whose state is a matrix, a set encoder, and a transformer.

# %%
makers = {
    "LSTM": partial(LSTM, backbone=Flatten, width=64),
    "MANN": partial(MANN, backbone=Flatten, width=64, rows=32, size=16),
    "GatedDeltaNet": partial(GatedDeltaNet, backbone=Flatten, width=32),
    "CNP": partial(CNP, backbone=Flatten, width=64),
    "InContext": partial(InContext, backbone=Flatten, width=32, depth=3),
}
outer = metabox.OuterLoop(steps=STEPS, n_tasks=16, lr=2e-3, validate_every=STEPS, n_validation=min(100, TEST_TASKS))
learners, seconds = {}, {}
for name, make in makers.items():
    began = time.process_time()
    learners[name] = metabox.run(training, make, outer, out=f"runs/side-by-side/{name}")
    seconds[name] = time.process_time() - began

# %% [markdown]
# ## Squared error against the number of examples
#
# The excess over ridge regression: how much of the task is not used.

# %% alt="Squared error of each learner and of ridge regression against the number of examples"
sizes = (1, 2, 3, 4, 6, 8, 12, 16)


def errors(n):
    tasks = LinearFunctions(dim=DIM, noise=NOISE, n_support=n, n_query=8, oracle=False)
    episodes = tasks.sample(Place(TEST_TASKS, "test"))
    answers = {"ridge": ridge(episodes.support, episodes.query.x, penalty=NOISE**2)}
    with torch.no_grad():
        for name, learner in learners.items():
            params = learner.predict(learner.adapt(episodes.support), episodes.query.x)
            answers[name] = learner.spec.target.mean(params)
    return {name: (answer - episodes.query.y).square().mean().item() for name, answer in answers.items()}


table = {n: errors(n) for n in sizes}
plt.figure(figsize=(6.5, 3.2), layout="constrained")
for name in ("ridge", *learners):
    style = {"color": "black", "linestyle": "--"} if name == "ridge" else {}
    plt.plot(sizes, [table[n][name] for n in sizes], label=name, **style)
plt.xlabel("examples in the support")
plt.ylabel("squared error")
plt.ylim(0, None)
plt.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What each keeps, and what it costs
#
# Numbers in phi after 4 and after 16 examples, parameters, and processor seconds of training.

# %%
few, many = (
    LinearFunctions(dim=DIM, noise=NOISE, n_support=n, n_query=1, oracle=False).sample(Place(1)).support
    for n in (4, 16)
)


def numbers(learner, support):
    with torch.no_grad():
        return sum(value[0].numel() for value in learner.adapt(support).values())


print(f"{'learner':14} {'phi of 4':>9} {'of 16':>7} {'parameters':>11} {'seconds':>8} {'error at 16':>12}")
for name, learner in learners.items():
    parameters = sum(p.numel() for p in learner.parameters())
    kept = numbers(learner, few), numbers(learner, many)
    print(f"{name:14} {kept[0]:9} {kept[1]:7} {parameters:11} {seconds[name]:8.0f} {table[16][name]:12.3f}")
print(f"{'ridge':14} {'':9} {'':7} {'':11} {'':8} {table[16]['ridge']:12.3f}")

# %% [markdown]
# ## Order
#
# A set has no order. The recurrent learners answer differently if the same examples come in reverse; the others cannot.

# %%
tasks = LinearFunctions(dim=DIM, noise=NOISE, n_support=8, n_query=8, oracle=False).sample(Place(100, "test"))
reverse = metabox.Examples(x=tasks.support.x.flip(1), y=tasks.support.y.flip(1))
for name, learner in learners.items():
    with torch.no_grad():
        both = [
            learner.spec.target.mean(learner.predict(learner.adapt(s), tasks.query.x)) for s in (tasks.support, reverse)
        ]
    print(f"{name:14} {(both[0] - both[1]).square().mean().sqrt().item():.4f}")

# %% [markdown]
# An error near the variance of y, about 3, means that a learner has not begun to read its support. The LSTM and the MANN
# need more steps than these to leave that plateau; [a page on it](../incontext.md) has ways out.
