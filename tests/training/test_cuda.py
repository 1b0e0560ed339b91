"""On CUDA everything is as on the CPU: tasks, predictions, gradients, scores, runs, files. Skipped where there is none.

The CPU's float32 is the reference, with TensorFloat-32 off on the GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import made, opened
from torch import Tensor, nn
from toys import Signs, named_rows

from metabox.data.augment import RandomAffine
from metabox.discover import subclasses
from metabox.episodes import Device, Episodes
from metabox.evaluation import evaluate
from metabox.export import export, load_exported
from metabox.learners import CNP, LSTM, MANN, SNAIL, HardSharing, InContext, ProtoNet
from metabox.learners.base import Learner
from metabox.learners.maml import MAML
from metabox.multitask import GradientCosines
from metabox.objectives import QueryLoss, StreamLoss
from metabox.targets import TaskSpec
from metabox.tasks import GaussianProcess, Glyphs, Handwriting, InMemory, Omniglot, Prefetch
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tensors import load_tensors, load_weights, save_tensors
from metabox.testing import SPECS, build, make_episodes, outputs
from metabox.training.loop import run
from metabox.training.settings import OuterLoop

pytestmark = pytest.mark.cuda
DEVICE = "cuda"
RAGGED: dict[str, Any] = {"n_way": (3, 7), "n_shot": (1, 4), "n_query": (1, 3), "imbalanced": True}
LEARNERS = {found.name: found for found in subclasses("Learner")}
WEIGHTINGS = {found.name: found for found in subclasses("Weighting")}


@pytest.fixture(autouse=True)
def _as_exact_as_the_cpu() -> Iterator[None]:
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # off by default in products
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Sums in one order: additions by many threads at once are rounded in the order in which they come."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-3) -> None:
    """Within a share of the largest number: what is nearly zero is a difference of large ones."""
    assert got.device.type == DEVICE
    worst = float((got.detach().cpu().float() - wanted.detach()).abs().max()) if wanted.numel() else 0.0
    assert worst <= tolerance * (1 + float(wanted.detach().abs().max()) if wanted.numel() else 1), f"differs by {worst}"


# Tasks


def tensors(episodes: Episodes) -> list[Tensor]:
    parts = [getattr(e, f.name) for e in (episodes.support, episodes.query) for f in fields(e)]
    parts += [getattr(episodes, f.name) for f in fields(episodes) if f.name not in ("support", "query")]
    return [part for part in parts if part is not None]


def same(a: Episodes, b: Episodes) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def both(sampler: EpisodeSampler, first: int = 0) -> tuple[Episodes, Episodes]:
    place = Place(16, "train", index=3, first=first, seed=5)
    there = sampler.sample(place, DEVICE)
    assert there.query.x.device.type == there.query.y.device.type == DEVICE
    return there.to("cpu"), sampler.sample(place)


@pytest.mark.parametrize(
    "options", [{}, {"n_way": 20, "n_shot": 5, "n_query": 5}, RAGGED], ids=["5w1s", "20w5s", "ragged"]
)
@pytest.mark.parametrize("rotations", [False, True])
def test_omniglot_is_drawn_bit_for_bit(omniglot_root: str, rotations: bool, options: dict[str, Any]) -> None:
    assert same(*both(Omniglot(data_root=omniglot_root, rotations=rotations, **options)))


@pytest.mark.parametrize("characters", [Glyphs, Handwriting])
@pytest.mark.parametrize("options", [{}, RAGGED], ids=["5w1s", "ragged"])
def test_glyphs_are_drawn_bit_for_bit(characters: type[EpisodeSampler], options: dict[str, Any]) -> None:
    assert same(*both(characters(**options)))


def test_turned_images_differ_by_a_grey_level_at_most(omniglot_root: str) -> None:
    there, here = both(Omniglot(data_root=omniglot_root, n_way=20, augment=RandomAffine()))
    assert (there.query.x.int() - here.query.x.int()).abs().max() <= 1
    assert torch.equal(there.query.y, here.query.y)


@pytest.mark.parametrize("oracle", ["none", "known"])
def test_gaussian_processes_are_the_same_within_a_millionth(oracle: Any) -> None:
    there, here = both(GaussianProcess(oracle=oracle))
    for a, b in ((there.support, here.support), (there.query, here.query)):
        assert torch.equal(a.mask, b.mask)
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-6)
        torch.testing.assert_close(a.y, b.y, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rotations", [False, True])
def test_images_left_in_their_file_come_ahead_through_pinned_memory(tmp_path: Path, rotations: bool) -> None:
    path = made(tmp_path / "set", [f"c{i}" for i in range(5)], channels=1, size=28)
    ahead, plain = (opened(path, on_device=False, rotations=rotations, n_way=5, n_shot=2) for _ in range(2))
    prefetched = Prefetch(ahead)
    for index in range(20):
        there = prefetched.sample(Place(64, "train", index=index), DEVICE)
        torch.mm(busy := torch.ones(2048, 2048, device=DEVICE), busy)  # the copy runs beside other work
        assert same(there.to("cpu"), plain.sample(Place(64, "train", index=index))), index


# Learners


def pair(name: str, kind: str) -> tuple[Learner, Learner, Episodes]:
    """A learner on the CPU, the same on the GPU, and tasks on the CPU."""
    make = LEARNERS[name].load()
    if issubclass(make, MAML):
        pytest.importorskip("learn2learn")
    if not isinstance(SPECS[kind].target, make.targets):
        pytest.skip("the learner has no such target")
    return build(make, SPECS[kind]), build(make, SPECS[kind]).to(DEVICE), make_episodes(SPECS[kind])


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_predicts_as_on_the_cpu(name: str, kind: str) -> None:
    here, there, episodes = pair(name, kind)
    moved = episodes.to(DEVICE)
    phi = there.adapt(moved.support, moved.descriptor)
    assert all(value.device.type == DEVICE for value in phi.values())
    close(there.predict(phi, moved.query.x), outputs(here, episodes))
    with torch.autocast(DEVICE, torch.bfloat16):
        close(outputs(there, moved), outputs(here, episodes), 0.05)
    empty = make_episodes(SPECS[kind], n_support=0)
    close(outputs(there, empty.to(DEVICE)), outputs(here, empty))


@pytest.mark.parametrize("kind", ["classes of images", "reals with a descriptor"])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_streams_as_on_the_cpu(name: str, kind: str) -> None:
    here, there, episodes = pair(name, kind)
    moved = episodes.to(DEVICE)
    close(there.stream(moved.support, moved.descriptor), here.stream(episodes.support, episodes.descriptor))


@pytest.mark.parametrize("kind", ["classes of images", "named parts", "named tasks"])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_has_the_gradients_of_the_cpu(name: str, kind: str) -> None:
    here, there, episodes = pair(name, kind)
    for learner, tasks in ((here, episodes), (there, episodes.to(DEVICE))):
        torch.manual_seed(0)
        # cuDNN has no gradients of recurrent layers in evaluation mode, where nothing is random.
        recurrent = any(isinstance(part, nn.RNNBase) for part in learner.modules())
        with torch.backends.cudnn.flags(enabled=not recurrent, allow_tf32=False):  # its default is True
            QueryLoss(learner)(tasks)["loss"].sum().backward()
    for (parameter, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        if p.grad is None or q.grad is None:
            assert p.grad is q.grad is None, parameter
        else:
            close(q.grad, p.grad, 1e-2)


def test_scores_are_those_of_the_cpu() -> None:
    tasks = Glyphs(n_way=5, n_shot=(1, 3), n_query=5)
    here, there = (build(ProtoNet, tasks.spec).to(device) for device in ("cpu", DEVICE))
    a, b = (evaluate(learner, tasks, n_tasks=60, batch=25) for learner in (there, here))
    assert a.per_task["accuracy"] == pytest.approx(b.per_task["accuracy"], abs=0.041)  # one query in 25 may be a tie
    assert a.mean("accuracy") == pytest.approx(b.mean("accuracy"), abs=0.002)
    assert a.per_task["nll"] == pytest.approx(b.per_task["nll"], rel=1e-3, abs=1e-3)
    assert a.pooled["calibration_error"] == pytest.approx(b.pooled["calibration_error"], abs=2e-3)


# Runs

QUICK = OuterLoop(steps=8, n_tasks=4, validate_every=4, n_validation=4, accelerator=DEVICE, compile="off", average=0.9)
SMALL = Glyphs(n_way=5, n_shot=1, n_query=3)
MAKERS: dict[str, tuple[Callable[..., Learner], Any]] = {
    "CNP": (CNP, QueryLoss),
    "InContext": (InContext, QueryLoss),
    "ProtoNet": (ProtoNet, QueryLoss),
    "SNAIL": (partial(SNAIL, horizon=6), QueryLoss),
    "LSTM": (LSTM, StreamLoss),
    "MANN": (MANN, StreamLoss),
}


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["val"]["nll"] for line in lines if "val" in line]


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("name", MAKERS)
def test_a_run_trains_and_its_weights_serve_on_the_cpu(tmp_path: Path, name: str, precision: Any) -> None:
    make, objective = MAKERS[name]
    there = run(SMALL, make, replace(QUICK, precision=precision), objective=objective, out=tmp_path)
    assert next(there.parameters()).device.type == DEVICE
    assert json.loads((tmp_path / "environment.json").read_text())["device"].startswith(DEVICE)
    assert len(losses(tmp_path)) == 2
    here = make(SMALL.spec)
    load_weights(here, tmp_path / "best.safetensors")
    episodes = SMALL.sample(Place(3, "test"))
    close(outputs(there, episodes.to(DEVICE)), outputs(here.eval(), episodes))


@pytest.mark.parametrize(
    "options", [{"accumulate": 2}, {"recompute": True}, {"optimizer": "adam", "average": 0.0}], ids=str
)
def test_a_run_takes_the_options_of_the_outer_loop(tmp_path: Path, options: dict[str, Any]) -> None:
    run(SMALL, InContext, replace(QUICK, **options), out=tmp_path)
    assert len(losses(tmp_path)) == 2


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_run_weighs_named_tasks(tmp_path: Path, name: str) -> None:
    if name == "Surgery":
        pytest.importorskip("torchjd")
    tasks, weighting = InMemory(named_rows(), n_query=3), WEIGHTINGS[name].load()
    run(tasks, HardSharing, QUICK, weighting=weighting, hooks=[GradientCosines(2)], out=tmp_path)
    assert len(losses(tmp_path)) == 2


class Stopping(Glyphs):
    """Fails once, at a training step after the first checkpoint."""

    fails = True

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        if (place.split, place.index) == ("train", 6) and type(self).fails:
            type(self).fails = False
            raise KeyboardInterrupt
        return super().sample(place, device)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stopped_run_ends_with_the_same_bits(tmp_path: Path, name: str, repeatable: None) -> None:
    check_resume(tmp_path, name)


def test_a_stopped_run_ends_with_the_same_bits_by_the_usual_kernels(tmp_path: Path) -> None:
    check_resume(tmp_path, "InContext")


def check_resume(tmp_path: Path, name: str) -> None:
    make, objective = MAKERS[name]
    tasks = Stopping(n_way=5, n_shot=1, n_query=3)
    for out, fails in (("whole", False), ("stopped", True)):
        Stopping.fails = fails
        if fails:
            with pytest.raises(KeyboardInterrupt):
                run(tasks, make, QUICK, objective=objective, out=tmp_path / out)
        run(tasks, make, QUICK, objective=objective, out=tmp_path / out)
    for file in ("best.safetensors", "checkpoints/step-00000008/model.safetensors"):
        one, two = (load_tensors(tmp_path / out / file)[0] for out in ("whole", "stopped"))
        assert [key for key in one if not torch.equal(one[key], two[key])] == [], file


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["auto", "on", "graphs"])
def test_a_compiled_run_ends_near_one_that_is_not(tmp_path: Path, how: Any, caplog: pytest.LogCaptureFixture) -> None:
    tasks, quick = Signs(), replace(QUICK, precision="32", average=0.0, epsilon=1e-3)
    for kind in ("off", how):
        run(tasks, partial(CNP, width=8), replace(quick, compile=kind), out=tmp_path / kind)
    assert "torch.compile fails here" not in caplog.text
    off, on = (load_tensors(tmp_path / kind / "best.safetensors")[0] for kind in ("off", how))
    for name in off:
        torch.testing.assert_close(on[name], off[name], rtol=1e-2, atol=1e-4)


# Files


@pytest.mark.parametrize("make", [CNP, InContext, SNAIL])
def test_exported_graphs_answer_on_the_gpu(tmp_path: Path, make: Callable[[TaskSpec, int], Learner]) -> None:
    spec = SPECS["classes of images"]
    learner, episodes = build(make, spec).to(DEVICE), make_episodes(spec)
    export(learner, episodes.to(DEVICE), tmp_path)
    served, other = load_exported(tmp_path, trusted=True), make_episodes(spec, n_query=9, seed=1)
    s, x = other.to(DEVICE).support, other.query.x.to(DEVICE)
    classes = torch.ones(len(s), 3, dtype=torch.bool, device=DEVICE)
    close(served.predict(served.adapt(s.x, s.y, s.mask, classes), x), outputs(build(make, spec), other))


def test_phi_saved_on_the_gpu_serves_on_the_cpu(tmp_path: Path) -> None:
    spec = SPECS["classes of images"]
    here, episodes = build(InContext, spec), make_episodes(spec)
    there, moved = build(InContext, spec).to(DEVICE), make_episodes(spec).to(DEVICE)
    save_tensors(tmp_path / "phi.safetensors", there.adapt(moved.support))
    phi, _ = load_tensors(tmp_path / "phi.safetensors")
    close(outputs(there, moved), here.predict(phi, episodes.query.x))


def test_what_a_run_is_does_not_depend_on_the_gpu(tmp_path: Path) -> None:
    """The state of a checkpoint names no device but the one that was asked for."""
    run(SMALL, CNP, QUICK, out=tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "step-00000008" / "state.json").read_text())
    assert state["settings"]["outer"]["accelerator"] == asdict(QUICK)["accelerator"]
    tensors, _ = load_tensors(tmp_path / "checkpoints" / "step-00000008" / "model.safetensors")
    assert {value.device.type for value in tensors.values()} == {"cpu"}
