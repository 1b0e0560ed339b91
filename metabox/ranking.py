"""How well binary labels are ranked by their predictions, over all tasks together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Ranked = Mapping[str, tuple[Tensor, Tensor]]
"""By part, "" without parts: scores and truths `[R, L]`; a truth is 0 or 1, or -1 for a label that is missing."""


def ranking_scores(batches: Sequence[Ranked]) -> dict[str, float]:
    """The area under the receiver operating characteristic, and the average precision, by part.

    Each is the mean over labels that are 0 somewhere and 1 elsewhere; there is none if no label is.
    """
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    found: dict[str, float] = {}
    for name in batches[0]:
        scores, truth = (torch.cat([batch[name][i] for batch in batches]) for i in (0, 1))
        known = truth >= 0
        both = [k for k in range(truth.shape[1]) if 0 < (truth[known[:, k], k] == 1).double().mean() < 1]
        for metric, function in (("auroc", binary_auroc), ("average_precision", binary_average_precision)):
            if each := [float(function(scores[known[:, k], k], truth[known[:, k], k])) for k in both]:
                found[f"{metric}_{name}".rstrip("_")] = math.fsum(each) / len(each)
    return found
