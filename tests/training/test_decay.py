"""Weight decay by role: what multiplies inputs shrinks, what means something by itself stays."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toys import Signs

from metabox.discover import subclasses
from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.targets import Reals, TaskSpec
from metabox.testing import SPECS
from metabox.training.loop import run
from metabox.training.optimizers import decayed, make_optimizer, parameter_groups
from metabox.training.settings import OuterLoop

OUTER = OuterLoop(
    steps=2,
    n_tasks=4,
    lr=0.1,
    weight_decay=0.5,
    warmup=0,
    schedule="constant",
    validate_every=2,
    n_validation=2,
    precision="32",
    accelerator="cpu",
)
KINDS = SPECS | {"one real": TaskSpec((1,), Reals(1))}
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"code": "both"})


class Parameter(NamedTuple):
    """A parameter's owner, its name there, and whether a step with a gradient of 0 changes it."""

    owner: nn.Module
    name: str
    shrinks: bool


def learners() -> Iterator[Learner]:
    """Every learner of the package for each kind of task that it takes, and those that are told z with all of it."""
    for found in subclasses("Learner"):
        for spec in KINDS.values():
            for options in OPTIONS:
                try:
                    yield found.load()(spec, **options)
                except (TypeError, ValueError, ImportError):  # no such option, target or package
                    continue


@cache
def parameters() -> dict[tuple[type, str], list[Parameter]]:
    """Of all learners, by the class of the owner and the name in it."""
    found: dict[tuple[type, str], list[Parameter]] = {}
    for learner in learners():
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter.fill_(2.0).requires_grad_(True)
                parameter.grad = torch.zeros_like(parameter)
        make_optimizer(OUTER, parameter_groups(learner)).step()
        for owner in learner.modules():
            for name, value in owner.named_parameters(recurse=False):
                changed = value.detach() != 2
                assert changed.all() or not changed.any(), name
                found.setdefault((type(owner), name), []).append(Parameter(owner, name, bool(changed.any())))
    return found


SHRINKS = {
    *("Linear.weight", "Conv2d.weight", "ConvTranspose2d.weight", "LSTMCell.weight_ih", "LSTMCell.weight_hh"),
    *("LSTM.weight_ih_l0", "LSTM.weight_hh_l0", "MultiheadAttention.in_proj_weight", "Stack.weight"),
    *("PartHeads.weight", "FiLMGenerator.amount", "ShortConvolution.weight", "_MatrixLSTM.blocks"),
}
STAYS = {
    *(
        "Linear.bias",
        "Conv2d.bias",
        "LSTMCell.bias_ih",
        "Stack.bias",
        "PartHeads.bias",
        "MultiheadAttention.in_proj_bias",
    ),
    *("LayerNorm.weight", "LayerNorm.bias", "BatchNorm2d.weight", "BatchNorm2d.bias"),
    *("Stitch.alpha", "SetConv.log_scale", "LRUMemory.alpha"),
    *("MatchingNet.log_sharpness", "ClassTokens.log_sharpness", "InContext.null_label", "CAML.unknown"),
    *("WeightGenerator.labels", "WeightGenerator.weights", "TransformerLayer.sink", "Interleaved.positions"),
    *("RMSNorm.weight", "InnerModel.share", "_GatedDelta.log_rate", "_StateSpace.skip", "_MatrixLSTM.gain"),
}


def test_a_step_shrinks_weights_and_leaves_biases_gains_embeddings_and_scalars() -> None:
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for (owner, name), all_of_them in parameters().items():
        for parameter in all_of_them:
            found[parameter.shrinks].add(f"{owner.__name__}.{name}")
    assert found[True] >= SHRINKS
    assert found[False] >= STAYS
    assert not found[True] & found[False]


def test_a_step_of_every_learner_shrinks_what_the_owning_module_declares() -> None:
    for (_, name), all_of_them in parameters().items():
        for parameter in all_of_them:
            assert parameter.shrinks == (name in decayed(parameter.owner))


def test_every_module_of_the_package_that_owns_a_parameter_says_which_of_them_decay() -> None:
    for owner, name in parameters():
        if owner.__module__.startswith("metabox."):
            says = [base for base in owner.__mro__ if "decayed" in vars(base) and base is not Learner]
            assert says or issubclass(owner, nn.Linear | nn.Conv2d), f"{owner.__name__} owns {name}: declare `decayed`"


class Known(Learner):
    """Logits by a matrix that decays, and a temperature that does not."""

    decayed = ("matrix",)

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.matrix, self.temperature = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.tensor(7.0))
        self.unused = nn.Linear(1, 1)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        return {"nothing": support.x.new_zeros(len(support.x), 1)}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        # Part of the loss with a gradient of exactly 0, so that only decay could change them.
        return (x @ self.matrix * self.temperature + self.unused(x[..., :1])) * 0


def test_a_run_takes_the_declaration_of_a_learner_of_your_own(tmp_path: Path) -> None:
    run(Signs(), Known, OUTER, out=tmp_path, scale="none")
    weights = load_file(tmp_path / "checkpoints" / "step-00000002" / "model.safetensors")
    torch.testing.assert_close(weights["learner.matrix"], torch.full((3, 2), (1 - 0.1 * 0.5) ** 2))
    assert weights["learner.temperature"] == 7


def test_a_parameter_of_two_modules_decays_if_both_say_so() -> None:
    one, other, embedding = nn.Linear(2, 3), nn.Linear(2, 3), nn.Embedding(3, 2)
    other.weight = one.weight
    assert any(one.weight is parameter for parameter in parameter_groups(nn.ModuleList([one, other]))[0]["params"])
    embedding.weight = one.weight
    groups = parameter_groups(nn.ModuleList([one, other, embedding]))
    assert [group["weight_decay"] for group in groups] == [0.0]


@pytest.mark.parametrize("wrong", [("matrices",), ["matrix"], "matrix", (1,)])
def test_a_declaration_that_names_no_parameter_is_refused(wrong: Any) -> None:
    known = Known(Signs.spec)
    known.decayed = wrong  # type: ignore[misc]
    with pytest.raises(ValueError, match="expected decayed of Known"):
        parameter_groups(known)
