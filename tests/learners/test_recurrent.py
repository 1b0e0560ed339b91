"""Recurrent learners over whole sequences: equal to their steps, with gradients of every order, cut and continued."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, REALS, doubled, embedding, in_double, ragged, real_examples
from torch import Tensor, nn

from metabox.discover import subclasses
from metabox.episodes import Examples
from metabox.learners import CNP, LSTM, MANN, GatedDeltaNet
from metabox.learners.recurrent import Recurrent
from metabox.nn.backbones import Flatten
from metabox.nn.label_code import LabelKind
from metabox.objectives import QueryLoss, StreamLoss
from metabox.targets import Binary, TaskSpec
from metabox.testing import build, make_episodes, outputs

SMALL = {"width": 4, "rows": 5, "size": 3, "heads": 2}  # so few rows that they are used again
ALL: dict[str, Any] = {
    "reads": "weights-before",
    "written": "separate",
    "gate": "emitted",
    "least_used": "own",
    "sharpness": 3.0,
    "begins": "first-row",
}
CASES: dict[str, Callable[..., Recurrent]] = {
    "LSTM": partial(LSTM, width=4),
    "MANN": partial(MANN, **SMALL),
    "emitted": partial(MANN, **SMALL, gate="emitted"),
    "read before": partial(MANN, **SMALL, reads="before"),
    "weights before, sharp": partial(MANN, **SMALL, reads="weights-before", sharpness=3.0),
    "one head": partial(MANN, **SMALL | {"heads": 1}, gate="emitted", reads="before"),
    "all options": partial(MANN, **SMALL, **ALL),
}
COUNTS = (6, 3, 0)  # real steps of three tasks
Sequence = tuple[Recurrent, dict[str, Tensor], Tensor, Tensor]


def sequence(name: str, dtype: torch.dtype = torch.double, steps: int = 6) -> Sequence:
    """A learner, a state in the middle of a sequence, inputs, and which of them are real."""
    torch.manual_seed(0)
    learner = CASES[name](CLASSES, backbone=Flatten).to(dtype)
    inputs = torch.randn(3, steps, learner.in_size, dtype=dtype)
    state = {key: torch.randn_like(part) for key, part in learner.start(inputs).items()}
    if isinstance(learner, MANN):
        # A row that is empty, and one so short that its cosine fades; the first step writes to neither.
        state["memory"][:, 0] = 0
        state["memory"][:, 1] *= 1e-6
        state["read"] = state["read"].softmax(-1).index_fill(2, torch.tensor(1), 0)
        state["usage"] = state["usage"].abs().index_fill(1, torch.tensor(1), 9)
        state["square"] = state["memory"].square().sum(-1)
    real = torch.arange(steps) < torch.tensor(COUNTS)[:, None] * steps // 6
    return learner, state, inputs, real


def summed(learner: Recurrent, scan: Any, state: dict[str, Tensor], inputs: Tensor, real: Tensor) -> Tensor:
    """A scalar of the outputs at real steps and of the last state, and of nothing else."""
    if "square" in state:
        state = state | {"square": state["memory"].square().sum(-1)}
    outputs, after = scan(state, inputs, real)
    parts = [outputs[real], *(part for name, part in after.items() if name != "usage")]
    total: Tensor = sum(
        (part.sin() * torch.linspace(1, 2, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in parts
    )
    return total


def leaves(state: dict[str, Tensor], inputs: Tensor, learner: Recurrent) -> dict[str, Tensor]:
    """What a gradient may be asked for."""
    weights = {name: p for name, p in learner.named_parameters() if not name.startswith("readout")}
    own = {name: part.requires_grad_() for name, part in state.items() if name not in ("usage", "square")}
    return {"inputs": inputs.requires_grad_(), **own, **weights}


@pytest.mark.parametrize("name", CASES)
def test_a_whole_sequence_is_its_steps_one_after_the_other(name: str) -> None:
    learner, state, inputs, real = sequence(name, torch.float, steps=30)
    (got, after), (wanted, last) = (scan(state, inputs, real) for scan in (learner.fast_scan, learner.scan))
    torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=1e-5)
    for key, part in last.items():
        torch.testing.assert_close(after[key], part, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_its_gradients_are_those_of_the_steps(name: str) -> None:
    learner, state, inputs, real = sequence(name, steps=12)
    into = leaves(state, inputs, learner)
    found, wanted = (
        torch.autograd.grad(summed(learner, scan, state, inputs, real), list(into.values()))
        for scan in (learner._scan, learner.scan)
    )
    for key, one, other in zip(into, found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", CASES)
def test_its_gradients_are_those_of_finite_differences(name: str) -> None:
    learner, state, inputs, real = sequence(name, steps=4)
    if "memory" in state:
        state["memory"] += 0.1  # finite differences are too coarse for rows that are empty or short

    def call(inputs: Tensor, *parts: Tensor) -> Tensor:
        return summed(learner, learner._scan, dict(zip(state, parts, strict=True)), inputs, real)

    given = [part.requires_grad_(key not in ("usage", "square")) for key, part in {"": inputs, **state}.items()]
    assert torch.autograd.gradcheck(call, given)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_can_be_differentiated_again(name: str) -> None:
    learner, state, inputs, real = sequence(name, steps=5)
    into = leaves(state, inputs, learner)
    found = []
    for scan in (learner._scan, learner.scan):
        first = torch.autograd.grad(summed(learner, scan, state, inputs, real), list(into.values()), create_graph=True)
        total = sum(grad.square().sum() for grad in first)
        found.append(torch.autograd.grad(total, list(into.values())))
    for key, one, other in zip(into, *found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
        assert key == "bias" or one.abs().max() > 0, key


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS], ids=str)
@pytest.mark.parametrize("objective", [StreamLoss, QueryLoss])
def test_training_takes_the_fast_path_to_the_same_gradients(
    objective: Any, spec: TaskSpec, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, calls, fast_scan = objective(CASES[name](spec).double()).train(), [], CASES[name].func.fast_scan
    episodes, found = in_double(ragged(spec)), []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return fast_scan(*arguments)

    monkeypatch.setattr(type(model.learner), "fast_scan", counted)
    for wanted in (1, 0):
        loss = model(episodes)["loss"]
        found.append((loss, torch.autograd.grad(loss.sum(), list(model.parameters()))))
        assert len(calls) == wanted
        calls.clear()
        monkeypatch.setattr(model.learner, "_scan", model.learner.scan)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("found", subclasses("Recurrent"), ids=lambda found: found.name)
def test_a_batch_of_no_tasks_is_read_and_answered(found: Any) -> None:
    learner, episodes = build(found.load(), CLASSES), make_episodes(CLASSES)[:0]
    assert learner.predict(learner.adapt(episodes.support), episodes.query.x).shape == (0, 4, 3)
    assert learner.stream(episodes.support).shape == (0, 6, 3)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_in_bf16_is_near_that_in_float32(name: str) -> None:
    torch.manual_seed(0)
    model = StreamLoss(CASES[name](CLASSES)).train()
    episodes, found = ragged(CLASSES), []
    for rough in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            loss = model(episodes)["loss"].mean()
        assert loss.dtype == torch.float
        found.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, list(model.parameters()))]))
    assert torch.cosine_similarity(*found, dim=0) > 0.99


def test_serving_takes_the_steps_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, episodes = build(partial(MANN, **SMALL), CLASSES), ragged(CLASSES)
    wanted = learner.stream(episodes.support)
    monkeypatch.setattr(MANN, "fast_scan", None)
    with torch.no_grad():
        got = learner.stream(episodes.support)
    torch.testing.assert_close(got[episodes.support.mask], wanted[episodes.support.mask])


# --------------------------------------------------------------- cut and continued


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("truncate", [1, 4, 6, 100])
def test_a_cut_gradient_is_that_of_pieces_with_a_state_that_is_data(name: str, truncate: int) -> None:
    torch.manual_seed(0)
    learner = CASES[name](CLASSES, truncate=truncate).double().train()
    examples = doubled(make_episodes(CLASSES, n_support=10).support)
    got = learner.stream(examples)
    learner.truncate = None
    whole = learner.stream(examples)
    torch.testing.assert_close(got, whole)
    phi, pieces = None, []
    for i in range(0, 10, truncate):
        piece = examples[:, i : i + truncate]
        pieces.append(learner.stream(piece, phi=phi))
        phi = {key: part.detach() for key, part in learner.adapt(piece, phi=phi).items()}
    torch.testing.assert_close(torch.cat(pieces, dim=1), got)
    weights = list(learner.parameters())
    cut, wanted, full = (
        torch.autograd.grad(part.square().sum(), weights, retain_graph=True, allow_unused=True)
        for part in (got, torch.cat(pieces, dim=1), whole)
    )
    torch.testing.assert_close(cut, wanted)
    same = all(torch.allclose(one, other) for one, other in zip(cut, full, strict=True) if one is not None)
    assert same == (truncate >= 10)


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "MANN"])
def test_going_on_from_a_phi_is_adapting_to_all_examples(name: str, spec: TaskSpec) -> None:
    learner, episodes = build(CASES[name], spec), ragged(spec)
    s, z, q = episodes.support, episodes.descriptor, episodes.query.x
    whole, streamed = learner.adapt(s, z), learner.stream(s, z)
    for cut in range(7):
        phi = learner.adapt(s[:, :cut], z)
        after = learner.adapt(s[:, cut:], z, phi=phi)
        assert after.keys() == whole.keys()
        wanted = whole
        if cut == 0 and "classes" in whole:  # an empty support has all classes
            assert after["classes"].all()
            wanted = learner.adapt(s, z, torch.ones_like(whole["classes"]))
        elif "classes" in whole and bool((after["classes"] != whole["classes"]).any()):
            wanted = learner.adapt(s, z, after["classes"])  # likewise, of one task
        torch.testing.assert_close(learner.predict(after, q), learner.predict(wanted, q), rtol=1e-5, atol=1e-5)
        rest, mask = learner.stream(s[:, cut:], z, phi=phi), s.mask[:, cut:]
        torch.testing.assert_close(rest[mask], streamed[:, cut:][mask], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_gone_on_from_is_refused() -> None:
    support = make_episodes(CLASSES).support
    lstm, mann, cnp = build(LSTM, CLASSES), build(MANN, CLASSES), build(CNP, CLASSES)
    for call in (lstm.adapt, lstm.stream):
        with pytest.raises(ValueError, match="expected the phi of this LSTM, with "):
            call(support, phi=mann.adapt(support))
        with pytest.raises(ValueError, match="expected phi as `adapt` returned it"):
            call(support, phi={})
        with pytest.raises(ValueError, match="expected x for the tasks that phi was made from"):
            call(support[:2], phi=lstm.adapt(support))
    for call in (cnp.adapt, cnp.stream):
        with pytest.raises(ValueError, match="expected no phi to go on from for CNP, whose phi is not a state"):
            call(support, phi=cnp.adapt(support))
    scaled = replace(REALS, scale="support")
    learner, reals = build(LSTM, scaled), make_episodes(scaled).support
    for call in (learner.adapt, learner.stream):
        with pytest.raises(ValueError, match='expected no phi to go on from with scale "support"'):
            call(reals, phi=learner.adapt(reals))


def test_the_label_set_grows_with_the_examples() -> None:
    learner, support = build(LSTM, CLASSES), make_episodes(CLASSES).support
    few = Examples(x=support.x[:, :2], y=support.y[:, :2] * 0)
    more = Examples(x=support.x[:, 2:4], y=support.y[:, 2:4] * 0 + 2)
    phi = learner.adapt(more, phi=learner.adapt(few))
    assert phi["classes"].tolist() == [[True, False, True]] * 3
    every = torch.ones(3, 3, dtype=torch.bool)
    assert learner.adapt(more, classes=every, phi=phi)["classes"].all()


@pytest.mark.parametrize("labels", ["one-hot", "same-step"])
def test_a_long_stream_that_is_cut_keeps_one_piece_in_memory(labels: LabelKind) -> None:
    learner = build(partial(MANN, labels=labels), CLASSES).train()
    examples = make_episodes(CLASSES, n_support=60).support
    kept = []
    for learner.truncate in (None, 6):
        before = memory()
        with torch.autograd.graph.saved_tensors_hooks(lambda part: part, lambda part: part):  # for Python to know them
            loss = learner.stream(examples).sum()
        kept.append(memory() - before)
        loss.backward()
    whole, cut = kept
    assert cut < 0.2 * whole


def memory() -> int:
    """Bytes of all tensors that Python knows, among them what MANN keeps for its backward pass; not the compiler's."""
    tensors = [part for part in gc.get_objects() if type(part) in (Tensor, nn.Parameter)]
    storages = [part.untyped_storage() for part in tensors]
    return sum({part.data_ptr(): part.nbytes() for part in storages}.values())


def test_a_summed_loss_is_that_of_all_steps_together_in_training_only() -> None:
    torch.manual_seed(0)
    learner, episodes = CASES["LSTM"](CLASSES), ragged(CLASSES)
    mean, summed = (StreamLoss(learner, summed=value) for value in (False, True))
    steps = episodes.support.mask.sum(1) + episodes.query.mask.sum(1)
    assert len(steps.unique()) > 1
    torch.testing.assert_close(summed.train()(episodes)["loss"], mean.train()(episodes)["loss"] * steps)
    torch.testing.assert_close(summed.eval()(episodes)["loss"], mean.eval()(episodes)["loss"])


# ------------------------------------------------------------- labels in the same step

SAME_STEP: dict[str, Callable[..., Recurrent]] = {
    "LSTM": partial(LSTM, width=4, labels="same-step"),
    "MANN": partial(MANN, **SMALL, labels="same-step"),
    "GatedDeltaNet": partial(GatedDeltaNet, width=8, depth=2, heads=2, labels="same-step"),
}


@torch.no_grad()
@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS], ids=str)
def test_a_label_is_read_with_its_input_and_a_query_without_one(spec: TaskSpec) -> None:
    """By torch's own LSTM, fed with (x, y) for each real example and then (x, 0)."""
    learner, episodes = build(SAME_STEP["LSTM"], spec).double(), in_double(ragged(spec))
    got = outputs(learner, episodes)
    for t in range(3):
        features, seen = embedding(learner, episodes, t), real_examples(episodes.support, t)
        state = None
        for x, y in seen:
            label = F.one_hot(y, 3).double() if spec.target.n_classes is not None else torch.cat([y, torch.ones(1)])
            state = learner.cell(torch.cat([features(x), label])[None], state)
        for i, x in enumerate(episodes.query.x[t]):
            hidden, _ = learner.cell(torch.cat([features(x), torch.zeros(learner.labels.in_size)])[None], state)
            torch.testing.assert_close(got[t, i], learner.readout(hidden)[0])


@pytest.mark.parametrize("spec", [REALS, TaskSpec((2,), Binary(2)), CLASSES], ids=str)
def test_a_query_is_told_from_an_example_whose_label_is_zero(spec: TaskSpec) -> None:
    learner, examples = build(SAME_STEP["LSTM"], spec), make_episodes(spec, n_support=1).support
    examples = replace(examples, y=torch.zeros_like(examples.y))
    phi = learner.adapt(examples[:, :0])
    query = torch.cat([learner.embed(examples.x, phi), phi["label"][:, None]], dim=-1)
    asked, _ = learner.step(phi, learner.project(query))
    assert (learner.adapt(examples)["hidden"] - asked[:, 0]).abs().amax(1).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", SAME_STEP)
def test_a_stream_with_labels_in_the_same_step_is_a_query_and_then_the_example(name: str) -> None:
    learner, episodes = build(SAME_STEP[name], CLASSES), ragged(CLASSES)
    s, z = episodes.support, episodes.descriptor
    every = torch.ones(3, 3, dtype=torch.bool)
    got = learner.stream(s, z)
    for t in range(s.x.shape[1]):
        wanted = learner.predict(learner.adapt(s[:, :t], z, every), s.x[:, t : t + 1])[:, 0]
        torch.testing.assert_close(got[:, t][s.mask[:, t]], wanted[s.mask[:, t]], rtol=1e-5, atol=1e-5)
    phi = learner.adapt(s[:, :2], z, every)
    rest, mask = learner.stream(s[:, 2:], z, phi=phi), s.mask[:, 2:]
    torch.testing.assert_close(rest[mask], got[:, 2:][mask], rtol=1e-5, atol=1e-5)
