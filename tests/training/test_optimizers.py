"""Each optimizer and schedule of the outer loop: torch's own steps, an exact resume, and no option without effect."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toys import Signs, Toy

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.targets import TaskSpec
from metabox.tasks.place import Place
from metabox.training.checkpoints import Checkpoints
from metabox.training.loop import run
from metabox.training.muon import COEFFICIENTS, Muon
from metabox.training.optimizers import make_optimizer, moments, parameter_groups
from metabox.training.settings import OuterLoop
from metabox.training.sharding import load_full_optimizer_state

QUICK = OuterLoop(steps=6, n_tasks=4, validate_every=3, n_validation=2, warmup=2, precision="32", accelerator="cpu")

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw"},
    "adam": {"optimizer": "adam", "epsilon": 1e-4},
    "rmsprop": {"optimizer": "rmsprop", "epsilon": 1e-6},
    "rmsprop with momentum": {"optimizer": "rmsprop", "smoothing": 0.95, "momentum": 0.9},
    "sgd": {"optimizer": "sgd", "lr": 0.1},
    "sgd with momentum": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9},
    "muon": {"optimizer": "muon", "lr": 0.01},
}


class Line(Learner):
    """Logits that are linear in the query, from fixed first weights; the support changes nothing."""

    decayed = ("weight",)

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.weight = nn.Parameter(torch.linspace(-0.4, 0.6, 6).view(3, 2))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        return {"nothing": support.x.new_zeros(len(support.x), 1)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return x @ self.weight


# The formulas of the papers, one step each, without torch.optim. `kept` holds what the steps before have left; g has
# the weight decay in it, except for AdamW.
def adam(w: Tensor, g: Tensor, lr: float, o: OuterLoop, kept: dict[str, Any]) -> Tensor:
    kept["n"] = n = kept.get("n", 0) + 1
    kept["m"] = 0.9 * kept.get("m", 0) + 0.1 * g
    kept["v"] = 0.999 * kept.get("v", 0) + 0.001 * g**2
    return w - lr * kept["m"] / (1 - 0.9**n) / ((kept["v"] / (1 - 0.999**n)).sqrt() + o.epsilon)


def adamw(w: Tensor, g: Tensor, lr: float, o: OuterLoop, kept: dict[str, Any]) -> Tensor:
    return adam(w * (1 - lr * o.weight_decay), g - o.weight_decay * w, lr, o, kept)


def rmsprop(w: Tensor, g: Tensor, lr: float, o: OuterLoop, kept: dict[str, Any]) -> Tensor:
    kept["v"] = o.smoothing * kept.get("v", 0) + (1 - o.smoothing) * g**2
    kept["b"] = o.momentum * kept.get("b", 0) + g / (kept["v"].sqrt() + o.epsilon)
    return w - lr * kept["b"]


def sgd(w: Tensor, g: Tensor, lr: float, o: OuterLoop, kept: dict[str, Any]) -> Tensor:
    kept["b"] = o.momentum * kept.get("b", 0) + g
    return w - lr * kept["b"]


def muon(w: Tensor, g: Tensor, lr: float, o: OuterLoop, kept: dict[str, Any]) -> Tensor:
    g = g - o.weight_decay * w
    kept["b"] = 0.95 * kept.get("b", 0) + 0.05 * g
    left, values, right = torch.linalg.svd(0.05 * g + 0.95 * kept["b"], full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = sum(c * values**power for c, power in zip(COEFFICIENTS, (1, 3, 5), strict=True))
    return w * (1 - lr * o.weight_decay) - lr * 0.2 * max(w.shape) ** 0.5 * left @ values.diag() @ right


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "adam": adam,
    "adamw": adamw,
    "muon": muon,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda w, o: torch.optim.AdamW(w, o.lr, weight_decay=o.weight_decay),
    "adam": lambda w, o: torch.optim.Adam(w, o.lr, weight_decay=o.weight_decay, eps=o.epsilon),
    "rmsprop": lambda w, o: torch.optim.RMSprop(
        w, o.lr, weight_decay=o.weight_decay, eps=o.epsilon, alpha=o.smoothing, momentum=o.momentum
    ),
    "sgd": lambda w, o: torch.optim.SGD(w, o.lr, weight_decay=o.weight_decay, momentum=o.momentum),
    "muon": lambda w, o: torch.optim.Muon(w, o.lr, weight_decay=o.weight_decay, adjust_lr_fn="match_rms_adamw"),
}


def gradients(weight: Tensor, step: int) -> Tensor:
    """Of the mean cross entropy of the queries, worked out by hand."""
    queries = Signs().sample(Place(QUICK.n_tasks, "train", index=step)).query
    x, y = queries.x.flatten(0, 1), queries.y.flatten()
    return x.T @ ((x @ weight).softmax(-1) - nn.functional.one_hot(y, 2)) / len(y)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_steps_of_a_run_are_those_of_torch_and_of_the_formula(tmp_path: Path, kind: str) -> None:
    outer = replace(QUICK, steps=2, validate_every=1, weight_decay=0.3, **OPTIMIZERS[kind])
    run(Signs(), Line, outer, out=tmp_path, scale="none")
    plain = Line(Signs.spec).weight.detach()
    module = Line(Signs.spec)
    optimizer = TORCHS[outer.optimizer]([module.weight], outer)
    kept: dict[str, Any] = {}
    for step in range(2):
        lr = outer.lr * (step + 1) / 3 * (0.505 + 0.495 * math.cos(math.pi * step / 2))
        optimizer.param_groups[0]["lr"] = lr
        module.weight.grad = gradients(module.weight.detach(), step)
        optimizer.step()
        plain = FORMULAS[outer.optimizer](plain, gradients(plain, step) + 0.3 * plain, lr, outer, kept)
        found = load_file(tmp_path / "checkpoints" / f"step-{step + 1:08d}" / "model.safetensors")["learner.weight"]
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
        # torch's Muon multiplies in bf16: a hundredth of a step.
        torch.testing.assert_close(found, module.weight.detach(), rtol=1e-5, atol=4e-5 if kind == "muon" else 1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_run_that_goes_on_from_a_checkpoint_ends_bit_for_bit_as_one_that_was_not_stopped(
    tmp_path: Path, kind: str
) -> None:
    outer = replace(QUICK, **OPTIMIZERS[kind])
    last = tmp_path / "checkpoints" / "step-00000006"
    run(Signs(), Toy, outer, out=tmp_path)
    whole = {path.name: load_file(path) for path in last.glob("*.safetensors")}
    names = {name.partition(".")[2] for name in whole["optimizer.safetensors"]}
    optimizer = make_optimizer(outer, parameter_groups(Toy(Signs.spec), kind == "muon"))
    assert names == {name for group in optimizer.param_groups for name in moments(optimizer, group)}
    shutil.rmtree(last)  # as if it had been killed after step 3
    run(Signs(), Toy, outer, out=tmp_path)
    for file, tensors in whole.items():
        again = load_file(last / file)
        assert tensors.keys() == again.keys()
        assert all(torch.equal(tensors[name], again[name]) for name in tensors), file


def test_a_parameter_whose_first_gradient_comes_late_is_trained_too(tmp_path: Path) -> None:
    for options in OPTIMIZERS.values():
        early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
        optimizer = make_optimizer(replace(QUICK, **options), [{"params": [early, late]}])
        early.grad = torch.ones(2)
        optimizer.step()
        Checkpoints(tmp_path).save(1, {}, optimizer, {})
        Checkpoints(tmp_path).resume({}, optimizer)
        late.grad = torch.ones(2)
        optimizer.step()
        assert (late < early + 1).all()
        assert (late < 1).all()


def test_muon_takes_kernels_as_matrices_and_leaves_the_rest_to_adamw() -> None:
    """Beside torch's own, which take what the module's roles say."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 20), nn.Embedding(5, 4))
    ours.to(memory_format=torch.channels_last)
    theirs = deepcopy(ours)
    outer = replace(QUICK, optimizer="muon", lr=0.02, weight_decay=0.1)
    optimizer = make_optimizer(outer, parameter_groups(ours, muon=True))
    kernel, matrix = theirs[0].weight, theirs[3].weight
    flat = nn.Parameter(kernel.detach().flatten(1))
    others = [p for p in theirs.parameters() if p is not kernel and p is not matrix]
    pair = [
        torch.optim.Muon([flat, matrix], 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 0.02, weight_decay=0.0),
    ]
    for _ in range(3):
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        flat.grad = kernel.grad.flatten(1)
        for each in (optimizer, *pair):
            each.step()
        kernel.data = flat.detach().view_as(kernel)
        for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(parameter, other, rtol=1e-4, atol=5e-4)  # torch multiplies in bf16
    assert isinstance(optimizer, Muon)
    assert ours[0].weight.grad is not None  # hooks may still read it


FOREIGN: dict[str, tuple[str, dict[str, Tensor | None], str]] = {
    "of another optimizer": ("sgd", {"0.exp_avg": torch.zeros(16, 5)}, r"expected no moments of 8 parameters"),
    "of no momentum": ("rmsprop", {"0.momentum_buffer": torch.zeros(16, 5)}, r"expected \('step', 'square_avg'\) of"),
    "shorter": ("sgd with momentum", {"0.momentum_buffer": torch.zeros(5)}, r"as torch.float32 \[16, 5\], got"),
    "of another kind": ("rmsprop", {"0.square_avg": torch.zeros(16, 5).double()}, "got torch.float64"),
    "without its step": ("rmsprop", {"3.step": None}, r"a part of them for \[3\]"),
    "without its momentum": ("rmsprop with momentum", {"3.momentum_buffer": None}, r"a part of them for \[3\]"),
    "of AdamW for Muon": ("muon", {"0.exp_avg": torch.zeros(16, 5)}, r"expected \('momentum_buffer',\) of 8"),
    "of Muon for AdamW": (
        "muon",
        {"7.momentum_buffer": torch.zeros(5)},
        r"expected \('step', 'exp_avg', 'exp_avg_sq'\)",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_moments_that_do_not_belong_to_the_optimizer_are_refused(what: str) -> None:
    kind, changed, says = FOREIGN[what]
    toy = Toy(Signs.spec)
    groups = parameter_groups(toy, muon=True) if kind == "muon" else [{"params": list(toy.parameters())}]
    optimizer = make_optimizer(replace(QUICK, **OPTIMIZERS[kind]), groups)
    for parameter in toy.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = {
        f"{i}.{name}": value for i, kept in optimizer.state_dict()["state"].items() for name, value in kept.items()
    }
    before = {name: value.clone() for name, value in tensors.items()}
    changed_too = {name: value for name, value in (tensors | changed).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load_full_optimizer_state(optimizer, changed_too)
    assert all(torch.equal(value, before[name]) for name, value in tensors.items())


def test_the_learning_rate_falls_by_steps() -> None:
    outer = OuterLoop(steps=1000, warmup=3, lr=0.8, schedule="step", decay_every=100, decay=0.5)
    assert [outer.lr_at(step) for step in (0, 1, 2, 3, 99)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert [outer.lr_at(step) for step in (100, 199, 200, 999)] == pytest.approx([0.4, 0.4, 0.2, 0.8 * 0.5**9])
    other = OuterLoop(warmup=0, lr=1.0, schedule="step", decay_every=7, decay=0.1)
    assert [other.lr_at(step) for step in range(30)] == pytest.approx([0.1 ** (step // 7) for step in range(30)])


MOMENTUM = (
    "expected momentum at its default, 0.0, with optimizer {}, which has no such option, got 0.9; leave momentum "
)
REFUSED: dict[str, dict[str, Any]] = {
    MOMENTUM.format("'adamw'") + "out, or use optimizer 'rmsprop' or 'sgd'": {"momentum": 0.9},
    MOMENTUM.format("'adam'"): {"momentum": 0.9, "optimizer": "adam"},
    "smoothing at its default, 0.99, with optimizer 'adamw'": {"smoothing": 0.9},
    "smoothing at its default, 0.99, with optimizer 'sgd'": {"smoothing": 0.9, "optimizer": "sgd"},
    "epsilon at its default, 1e-08, with optimizer 'sgd'": {"epsilon": 1e-3, "optimizer": "sgd"},
    "expected fsdp without muon": {"optimizer": "muon", "strategy": "fsdp", "devices": 2},
    "decay_every at its default, 0, with schedule 'cosine'": {"decay_every": 5},
    "decay at its default, 0.5, with schedule 'constant'": {"decay": 0.1, "schedule": "constant"},
    "expected decay_every of at least 1 with schedule 'step', got 0; give": {"schedule": "step"},
}


@pytest.mark.parametrize("says", REFUSED)
def test_an_option_that_would_do_nothing_or_harm_is_refused(says: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # is checked in full
        OuterLoop(**REFUSED[says])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_option_that_does_not_belong_is_accepted_at_its_default() -> None:
    for optimizer in ("adam", "adamw", "muon", "rmsprop", "sgd"):
        OuterLoop(optimizer=optimizer, epsilon=1e-8, momentum=0, smoothing=0.99, decay_every=0, decay=0.5)
