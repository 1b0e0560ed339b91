"""Ten thousand support examples on a CPU, and training that recomputes instead of keeping."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import Signs

from metabox.learners import CAML, TNPD, InContext
from metabox.learners.base import Learner
from metabox.nn.transformer import recompute
from metabox.objectives import QueryLoss
from metabox.testing import SPECS, make_episodes
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

SCRIPT = """
import os, resource, sys, torch
from metabox import learners
from metabox import Classes, TaskSpec
from metabox.testing import make_episodes
spec = TaskSpec((4,), Classes(5))
for make in [getattr(learners, name) for name in sys.argv[1:]]:
    if child := os.fork():  # a largest size is that of a process, and begins anew in the next
        assert os.waitpid(child, 0)[1] == 0
        continue
    learner = make(spec).eval()
    episodes = make_episodes(spec, 1, 10_000, 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        assert learner(episodes).isfinite().all()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, flush=True)
    os._exit(0)
"""


def test_ten_thousand_support_examples_take_less_memory_than_one_matrix_of_their_pairs() -> None:
    names = ["CNP", "ProtoNet", "MatchingNet", "InContext", "TNPD"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken = dict(zip(names, map(float, done.stdout.split()), strict=True))
    most = 4 * 10_000**2 / 2**20  # MB; attention has such a matrix for each of its heads
    assert {name: size for name, size in taken.items() if size >= most} == {}


def gradients(objective: QueryLoss, seed: int = 0) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of every weight, and how many bytes were kept for them."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = objective(make_episodes(SPECS["classes of vectors"], n_support=100))["loss"].mean()
    loss.backward()
    return {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}, sum(kept.values())


@pytest.mark.parametrize("make", [InContext, TNPD, CAML])
def test_recomputing_gives_the_same_gradients_and_keeps_less(make: type[Learner]) -> None:
    torch.manual_seed(0)
    spec = SPECS["classes of vectors"]
    plain = QueryLoss(make(spec))
    saving = copy.deepcopy(plain)
    recompute(saving)
    wanted, kept = gradients(plain)
    got, kept_now = gradients(saving)
    assert got.keys() == wanted.keys() == dict(plain.named_parameters()).keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-6)
    assert kept_now < 0.6 * kept


def test_a_copy_of_a_model_that_recomputes_has_weights_of_its_own() -> None:
    spec = SPECS["classes of vectors"]
    model = InContext(spec)
    recompute(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    episodes = make_episodes(spec)
    assert not torch.equal(other.eval()(episodes), model.eval()(episodes))
    assert (other(episodes).std() > 0).item()


def test_recomputing_is_an_option_of_the_outer_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.nn.Module] = []
    monkeypatch.setattr("metabox.training.preflight.recompute", asked.append)
    for choice in (False, True):
        outer = OuterLoop(steps=1, n_tasks=2, validate_every=1, n_validation=2, precision="32", recompute=choice)
        run(Signs(), InContext, outer, out=tmp_path / str(choice))
    assert len(asked) == 1
