# %% [markdown]
# # First steps
#
# A learner is two functions: `phi = adapt(support)` and `params = predict(phi, x)`. This notebook looks at a task, trains
# a small learner on such tasks, and gives it classes that it has never seen. Nothing is downloaded.

# %% tags=["parameters"]
STEPS = 1500  # training steps
TEST_TASKS = 300

# %%
import json
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import metabox
from metabox import Place
from metabox.learners import InContext, ProtoNet
from metabox.nn.backbones import Conv4
from metabox.tasks import Glyphs

# %% [markdown]
# ## A task
#
# Five made-up characters, one drawing of each with its label (the support), and further drawings to classify (the query).

# %% alt="Five characters with their labels, and a further drawing of five characters to classify"
tasks = Glyphs(n_way=5, n_shot=1, n_query=2)
episodes = tasks.sample(Place(n_tasks=1, split="train"))

figure, axes = plt.subplots(2, 5, figsize=(6, 2.6), layout="constrained")
for n in range(5):
    for row, part, name in ((0, episodes.support, "y ="), (1, episodes.query, "query,")):
        axes[row, n].imshow(part.x[0, n, 0].numpy(), cmap="gray_r")
        axes[row, n].set_title(f"{name} {part.y[0, n].item()}", fontsize=9)
        axes[row, n].axis("off")
plt.show()

# %% [markdown]
# Labels are numbers in a random order, drawn anew for each task: only the support tells what label 3 means.
#
# ## Training
#
# Each step draws tasks of 20 new characters and takes a step on the loss of their queries.

# %%
training = Glyphs(n_way=20, n_shot=1, n_query=2)
held_out = Glyphs(n_way=5, n_shot=1, n_query=15)  # other characters
make = partial(InContext, backbone=partial(Conv4, width=32, downsample="stem"), width=64)
every = max(1, STEPS // 6)
outer = metabox.OuterLoop(steps=STEPS, n_tasks=2, lr=2e-3, validate_every=every, n_validation=min(60, TEST_TASKS))
learner = metabox.run(training, make, outer, evaluation=held_out, out="runs/first-steps")

# %% alt="Accuracy on held-out characters against training steps; chance is 20 %"
log = map(json.loads, Path("runs/first-steps/metrics.jsonl").read_text(encoding="utf-8").splitlines())
curve = [line for line in log if "val" in line]
plt.figure(figsize=(6, 2.4), layout="constrained")
plt.plot([line["step"] for line in curve], [100 * line["val"]["accuracy"] for line in curve], marker="o")
plt.axhline(20, linestyle=":", color="gray")
plt.xlabel("step")
plt.ylabel("accuracy on held-out\ncharacters, %")
plt.show()

# %% [markdown]
# ## Test
#
# The score is a mean over test tasks, with half the width of its 95 % interval. An untrained prototype network shows how
# far plain comparison of random features goes.

# %%
print("trained in-context learner:", metabox.evaluate(learner, held_out, n_tasks=TEST_TASKS))
torch.manual_seed(0)
plain = ProtoNet(held_out.spec, backbone=partial(Conv4, width=32, downsample="stem")).eval()
print("untrained prototypes:      ", metabox.evaluate(plain, held_out, n_tasks=TEST_TASKS))

# %% [markdown]
# ## Any way and shot
#
# Way and shot are data, not layer sizes: the same weights answer other questions.

# %%
for n_way, n_shot in ((3, 1), (5, 5), (20, 1)):
    other = Glyphs(n_way=n_way, n_shot=n_shot, n_query=3)
    print(f"{n_way}-way {n_shot}-shot:", metabox.evaluate(learner, other, n_tasks=TEST_TASKS // 3 + 1))

# %% [markdown]
# ## phi
#
# All that is kept of a task. It can be sliced, saved, and answers any number of queries.

# %%
with torch.no_grad():
    phi = learner.adapt(episodes.support)
    probabilities = learner.predict(phi, episodes.query.x).softmax(-1)
print({name: list(value.shape) for name, value in phi.items()})
print(probabilities[0, :2, :5])
