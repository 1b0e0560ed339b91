"""Draws docs/_static/regression.svg: the model `functions` on one curve, after 4 and after 16 points."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from metabox import FewShotRegressor

STATIC = Path(__file__).parents[1] / "_static"
plt.rcParams |= {"svg.hashsalt": "metabox", "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}


def curve(x: np.ndarray) -> np.ndarray:
    return np.asarray(20 + 8 * np.sin(x / 9) + 3 * np.sin(x / 3.1))


def main() -> None:
    random = np.random.default_rng(3)
    points, at = random.permutation(np.linspace(2, 58, 16)), np.linspace(0, 60, 200)
    drawing, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    for axis, n in zip(axes, (4, 16), strict=True):
        x = points[:n, None]
        regressor = FewShotRegressor("functions").fit(x, curve(x[:, 0]))
        low, high = np.asarray(regressor.predict_quantiles(at[:, None], (0.05, 0.95))).T
        axis.fill_between(at, low, high, alpha=0.25, lw=0, label="5 to 95 %")
        axis.plot(at, regressor.predict(at[:, None]), label="mean")
        axis.plot(at, curve(at), "--", color="gray", lw=1, label="the curve")
        axis.plot(x, curve(x), "ko", ms=4, label="support")
        axis.set_title(f"{n} points")
    axes[1].legend(frameon=False, fontsize=9)
    drawing.savefig(STATIC / "regression.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
