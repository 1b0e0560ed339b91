"""torch.compile as an option of the outer loop: the same training, few compilations, and a fallback."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.precision import Precision
from safetensors.torch import load_file
from toys import Signs

from metabox.learners import CNP, LSTM, MANN, InContext, ProtoNet
from metabox.learners.base import Learner
from metabox.objectives import QueryLoss, StreamLoss
from metabox.targets import TaskSpec
from metabox.testing import SPECS, make_episodes
from metabox.training.compiling import compiled
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

QUICK = {"steps": 8, "n_tasks": 4, "validate_every": 8, "n_validation": 10, "precision": "32", "epsilon": 1e-3}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def objective(make: Callable[[TaskSpec], Learner], spec: TaskSpec) -> QueryLoss:
    torch.manual_seed(0)
    return QueryLoss(make(spec))


def small(spec: TaskSpec) -> CNP:
    return CNP(spec, width=8)


@pytest.mark.filterwarnings("ignore")  # torch compiles with deprecated parts of its own
def test_a_compiled_run_ends_with_the_weights_of_one_that_is_not(tmp_path: Path) -> None:
    for kind in ("off", "on"):
        run(Signs(), small, OuterLoop(**QUICK, compile=kind), out=tmp_path / kind)  # type: ignore[arg-type]
    assert graphs() > 0
    off, on = (load_file(tmp_path / kind / "best.safetensors") for kind in ("off", "on"))
    for name in off:
        torch.testing.assert_close(on[name], off[name], rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [CNP, partial(InContext, depth=1), ProtoNet], ids=["CNP", "InContext", "ProtoNet"])
def test_ragged_shots_and_queries_are_compiled_a_few_times_and_then_no_more(
    make: Callable[[TaskSpec], Learner],
) -> None:
    spec = SPECS["classes of vectors"]
    model = objective(make, spec)
    module = compiled(model, make_episodes(spec), Precision(), backend="aot_eager")
    for n in range(5):  # of sizes that were never the same before
        module(make_episodes(spec, n_support=7 + n, n_query=20 - n))["loss"].mean().backward()
        if n == 1:
            so_far = graphs()
    for n in range(10):
        module(make_episodes(spec, n_tasks=3, n_support=30 + n, n_query=31 + 2 * n))["loss"].mean().backward()
    assert graphs() == so_far <= 3
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [partial(LSTM, width=4), partial(MANN, width=4, rows=5, size=3, heads=2)])
def test_a_compiled_recurrent_learner_has_the_gradients_of_its_fast_path(make: Callable[[TaskSpec], Learner]) -> None:
    spec = SPECS["classes of vectors"]
    model = StreamLoss(objective(make, spec).learner)
    episodes = make_episodes(spec, n_support=2, n_query=1)
    module = compiled(model, episodes, Precision(), backend="aot_eager")
    assert module is not model
    found = [torch.autograd.grad(m(episodes)["loss"].sum(), list(model.parameters())) for m in (module, model)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.filterwarnings("ignore")
def test_without_a_compiler_training_goes_on_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # nothing that was compiled before
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    with caplog.at_level(logging.WARNING, logger="metabox"):
        run(Signs(), small, OuterLoop(**QUICK, compile="on"), out=tmp_path / "run")  # type: ignore[arg-type]
    said = [record.getMessage() for record in caplog.records if record.name.startswith("metabox")]
    assert len(said) == 1
    assert re.match(r"torch.compile fails here, training goes on without: .+", said[0])
    run(Signs(), small, OuterLoop(**QUICK, compile="off"), out=tmp_path / "off")  # type: ignore[arg-type]
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("run", "off"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_trial_step_leaves_weights_gradients_and_statistics_as_they_were() -> None:
    spec = SPECS["classes of images"]
    model = objective(ProtoNet, spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    compiled(model, make_episodes(spec), Precision(), backend="eager")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
