"""Draws docs/_static/tables.png: two columns of made-up tables against each other, coloured by class.

python docs/figures/tables.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from metabox.tasks import TabularPrior
from metabox.tasks.place import Place

STATIC = Path(__file__).parents[1] / "_static"


def draw() -> None:
    """Of each table the two columns that a forest uses most, in ranks, so that units do not matter."""
    from sklearn.ensemble import ExtraTreesClassifier

    prior = TabularPrior(n_rows=400, n_columns=6, missing=0, odd=0, n_classes=(2, 4), share_sizes=18)
    episodes = prior.sample(Place(18, "val"))
    x = torch.cat([episodes.support.x, episodes.query.x], 1).numpy()
    y = torch.cat([episodes.support.y, episodes.query.y], 1).numpy()
    drawing, axes = plt.subplots(3, 6, figsize=(8, 4), layout="constrained")
    for table, labels, axis in zip(x, y, axes.flat, strict=True):
        forest = ExtraTreesClassifier(50, random_state=0).fit(table, labels)
        first, second = np.argsort(-forest.feature_importances_)[:2]
        ranks = table[:, [first, second]].argsort(0, kind="stable").argsort(0)
        axis.scatter(*ranks.T, c=labels, s=3, cmap="tab10", vmin=0, vmax=9, linewidths=0)
        axis.set(xticks=[], yticks=[])
    drawing.savefig(STATIC / "tables.png", dpi=110, metadata={"Software": None})
    Image.open(STATIC / "tables.png").convert("RGB").quantize(64).save(STATIC / "tables.png", optimize=True)
    plt.close(drawing)


if __name__ == "__main__":
    draw()
