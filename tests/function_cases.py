"""What the tests of functions share: episodes in one piece, and task by task."""

from __future__ import annotations

import torch

UNLIKELY = 1e-4  # the draws are fixed, so a test that passes once passes always


def whole(episodes):
    """x and y of support and query together, `[T, N + M, ...]`, in float64; y without its last axis."""
    s, q = episodes.support, episodes.query
    return torch.cat([s.x, q.x], 1).double().numpy(), torch.cat([s.y, q.y], 1)[..., 0].double().numpy()


def tasks_of(episodes):
    """x and y of each task's support and query, in float64, without padding."""
    for t in range(len(episodes)):
        parts = []
        for e in (episodes.support, episodes.query):
            parts += [e.x[t][e.mask[t]].double().numpy(), e.y[t][e.mask[t]].double().numpy()[:, 0]]
        yield parts
