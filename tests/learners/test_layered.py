"""Recurrent learners of layers: whole sequences are their steps, queries are steps that are not kept, phi is small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from learner_cases import CLASSES, DESCRIBED, REALS, doubled, ragged
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners import TTT, XLSTM, GatedDeltaNet, LinearAttention, Mamba2
from metabox.learners.layered import Layered
from metabox.learners.recurrent import Recurrent
from metabox.nn.backbones import Flatten
from metabox.nn.label_code import LabelKind
from metabox.objectives import QueryLoss, StreamLoss
from metabox.testing import build, make_episodes

SMALL = {"width": 8, "heads": 2}
CASES: dict[str, Callable[..., Layered]] = {
    "linear attention": partial(LinearAttention, **SMALL),
    "Gated DeltaNet": partial(GatedDeltaNet, **SMALL),
    "Mamba-2": partial(Mamba2, **SMALL, states=4, groups=2),
    "xLSTM": partial(XLSTM, **SMALL),
    "TTT-Linear": partial(TTT, **SMALL, batch=5),
    "TTT-MLP": partial(TTT, **SMALL, batch=5, inner="mlp", rate=0.1),
}
NAMES = pytest.mark.parametrize("name", CASES)


def sequence(name: str, steps: int) -> tuple[Layered, dict[str, Tensor], Tensor, Tensor]:
    """A learner, a state in the middle of a sequence, inputs, and which of them are real."""
    learner = build(CASES[name], CLASSES).double()
    before, inputs = (torch.randn(3, n, learner.in_size, dtype=torch.double) for n in (7, steps))
    met = torch.arange(7) < torch.tensor([3, 7, 0])[:, None]
    _, state = Recurrent.scan(learner, learner.start(inputs), before, met)
    return learner, state, inputs, torch.arange(steps) < torch.tensor([steps, steps // 2, 0])[:, None]


@NAMES
@pytest.mark.parametrize("steps", [1, 4, 70])
def test_a_whole_sequence_is_its_steps_one_after_the_other(name: str, steps: int) -> None:
    learner, state, inputs, real = sequence(name, steps)
    (got, after), (wanted, last) = learner.scan(state, inputs, real), Recurrent.scan(learner, state, inputs, real)
    torch.testing.assert_close(got[real], wanted[real], rtol=0, atol=1e-9 * float(wanted.detach().abs().max()))
    assert after.keys() == last.keys() == state.keys()
    for key, part in last.items():
        torch.testing.assert_close(after[key], part, rtol=1e-9, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


@NAMES
def test_its_gradients_are_those_of_the_steps(name: str) -> None:
    learner, state, inputs, real = sequence(name, 40)
    inputs.requires_grad_()
    state = {key: part.detach().requires_grad_(part.is_floating_point()) for key, part in state.items()}
    leaves = [inputs, *(part for part in state.values() if part.requires_grad)]
    leaves += [weight for key, weight in learner.named_parameters() if key.startswith(("token", "mixers", "norms"))]
    found = []
    for scan in (learner.scan, partial(Recurrent.scan, learner)):
        outputs, after = scan(state, inputs, real)
        total = outputs[real].sin().sum() + sum(part.sin().sum() for part in after.values())
        found.append(torch.autograd.grad(total, leaves, allow_unused=True))
    for got, wanted in zip(*found, strict=True):
        assert (got is None) == (wanted is None)  # the initial weights of an inner model, from a given state
        if got is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)


@NAMES
def test_a_gradient_can_be_differentiated_again(name: str) -> None:
    learner, state, inputs, real = sequence(name, 3)
    inputs.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: learner.scan(state, x, real)[0][real], inputs, fast_mode=True)


@NAMES
@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS], ids=str)
def test_a_stream_in_one_pass_is_adapting_step_by_step(name: str, spec: object) -> None:
    learner = build(CASES[name], spec).double()  # type: ignore[arg-type]
    episodes = make_episodes(spec, n_support=40)  # type: ignore[arg-type]
    support, z = doubled(episodes.support), episodes.descriptor
    z = None if z is None else z.double()
    support = replace(support, mask=torch.rand(support.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.8)
    every = None if spec is REALS else torch.ones(3, 3, dtype=torch.bool)
    streamed = learner.stream(support, z)
    for t in (0, 1, 5, 17, 39):
        phi = learner.adapt(support[:, :t], z, every)
        real = support.mask[:, t]
        got = learner.predict(phi, support.x[:, t : t + 1])[:, 0]
        torch.testing.assert_close(streamed[real, t], got[real], rtol=1e-9, atol=1e-9)


@NAMES
def test_a_query_does_a_whole_step_which_is_not_kept(name: str) -> None:
    learner, episodes = build(CASES[name], CLASSES), ragged(CLASSES)
    every = torch.ones(3, 3, dtype=torch.bool)
    phi = learner.adapt(episodes.support, classes=every)
    before = {key: part.clone() for key, part in phi.items()}
    twice = torch.cat([episodes.query.x, episodes.query.x], dim=1)
    got = learner.predict(phi, twice)
    torch.testing.assert_close(got[:, :4], got[:, 4:], rtol=0, atol=0)
    assert all(torch.equal(part, before[key]) for key, part in phi.items())
    # A query that only read would not depend on what is written: silence all writes, and see the answers change.
    for _, _, mixer in learner._layers():
        mixer.parts = partial(_unwritten, mixer.parts, mixer.silent)  # type: ignore[method-assign]
    assert not torch.allclose(learner.predict(phi, twice), got, atol=1e-4)


def _unwritten(
    parts: Callable[..., dict[str, Tensor]], silent: Callable[..., dict[str, Tensor]], *given: object
) -> dict:
    made = parts(*given)
    return made | silent(made, torch.zeros(1, dtype=torch.bool))


@NAMES
def test_phi_is_as_large_after_a_hundred_examples_as_after_none(name: str) -> None:
    learner = build(CASES[name], CLASSES)
    sizes = [
        {key: part.shape for key, part in learner.adapt(make_episodes(CLASSES, n_support=n).support).items()}
        for n in (0, 1, 100)
    ]
    assert sizes[0] == sizes[1] == sizes[2]


@NAMES
def test_phi_in_other_numbers_predicts_the_same(name: str) -> None:
    learner, episodes = build(CASES[name], CLASSES).double(), make_episodes(CLASSES, n_support=7)
    support, x = doubled(episodes.support), episodes.query.x.double()
    phi = learner.adapt(support)
    all_reals = {key: part if key == "classes" else part.double() for key, part in phi.items()}
    assert torch.equal(learner.predict(all_reals, x), learner.predict(phi, x))
    again, wanted = (learner.adapt(support, phi=before) for before in (all_reals, phi))
    assert all(torch.equal(part, wanted[key]) for key, part in again.items())


@NAMES
def test_many_queries_copy_no_state(name: str) -> None:
    learner, episodes = build(CASES[name], CLASSES), make_episodes(CLASSES, n_query=50)
    phi, largest = learner.adapt(episodes.support), []
    matrices = {part.shape[-2:] for part in phi.values() if part.ndim == 4 and part.shape[-2] > 1}

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **kwargs or {})
            if isinstance(made, Tensor) and made.ndim >= 4 and made.shape[-2:] in matrices:
                largest.append(made.numel())
            return made

    with Watch(), torch.no_grad():
        learner.predict(phi, episodes.query.x)
    most = max(part.numel() for part in phi.values())
    assert max(largest, default=0) <= most


@NAMES
@pytest.mark.parametrize("cut", [1, 3, 9])
def test_going_on_from_a_phi_is_adapting_to_all_examples(name: str, cut: int) -> None:
    learner = build(CASES[name], CLASSES).double()
    support = doubled(make_episodes(CLASSES, n_support=21).support)
    mask = torch.ones(3, 21, dtype=torch.bool)
    mask[1, 2:6], mask[2, :cut] = False, False  # each task is elsewhere in its mini-batch
    support, every = replace(support, mask=mask), torch.ones(3, 3, dtype=torch.bool)
    whole = learner.adapt(support, classes=every)
    phi = learner.adapt(support[:, :cut], classes=every)
    after = learner.adapt(support[:, cut:], classes=every, phi=phi)
    for key, part in whole.items():
        torch.testing.assert_close(after[key], part, rtol=1e-9, atol=1e-9)
    rest = learner.stream(support[:, cut:], phi=phi)
    real = mask[:, cut:]
    torch.testing.assert_close(rest[real], learner.stream(support)[:, cut:][real], rtol=1e-9, atol=1e-9)


@NAMES
@pytest.mark.parametrize("objective", [StreamLoss, QueryLoss])
def test_a_gradient_in_bf16_is_near_that_in_float32(name: str, objective: Callable[..., StreamLoss]) -> None:
    torch.manual_seed(0)
    model = objective(CASES[name](CLASSES, backbone=Flatten, width=32)).train()
    episodes, found = make_episodes(CLASSES, n_support=40), []
    for rough in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            loss = model(episodes)["loss"].mean()
        grads = torch.autograd.grad(loss, list(model.parameters()))
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert torch.cosine_similarity(*found, dim=0) > 0.98


@NAMES
def test_states_stay_in_float32_under_autocast(name: str) -> None:
    learner, episodes = build(CASES[name], CLASSES), ragged(CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        phi = learner.adapt(episodes.support)
        again = learner.adapt(episodes.support, phi=phi)
    for made in (phi, again):
        of_layers = [part for key, part in made.items() if key[0].isdigit() and not key.endswith("position")]
        assert all(part.dtype == torch.float for part in of_layers)


@NAMES
def test_a_cut_gradient_is_that_of_pieces_and_keeps_the_predictions(name: str) -> None:
    learner = build(CASES[name], CLASSES).double().train()
    examples = doubled(make_episodes(CLASSES, n_support=10).support)
    whole = learner.stream(examples)
    learner.truncate = 4
    got, phi, pieces = learner.stream(examples), None, []
    for i in range(0, 10, 4):
        pieces.append(learner.stream(examples[:, i : i + 4], phi=phi))
        after = learner.adapt(examples[:, i : i + 4], phi=phi)
        phi = {key: part.detach() for key, part in after.items()}
    torch.testing.assert_close(got, whole)
    weights = list(learner.parameters())
    cut, wanted, full = (
        torch.autograd.grad(part.square().sum(), weights, allow_unused=True)
        for part in (got, torch.cat(pieces, dim=1), whole)
    )
    torch.testing.assert_close(cut, wanted)
    assert not all(torch.allclose(one, other) for one, other in zip(cut, full, strict=True))


@pytest.mark.parametrize("labels", ["one-hot", "same-step"])
def test_a_long_stream_that_is_cut_keeps_one_piece_for_the_backward_pass(labels: LabelKind) -> None:
    learner = build(partial(GatedDeltaNet, labels=labels), CLASSES).train()
    examples = make_episodes(CLASSES, n_support=60).support
    kept: list[list[int]] = []

    def pack(part: Tensor) -> Tensor:
        kept[-1].append(part.numel())
        return part

    for learner.truncate in (None, 6):
        kept.append([])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda part: part):
            learner.stream(examples)
    whole, cut = map(sum, kept)
    assert cut < 0.2 * whole


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(LinearAttention, width=10, heads=4), "heads"),
        (partial(GatedDeltaNet, width=10, heads=4), "heads"),
        (partial(Mamba2, width=10, heads=3), "expected heads as a divisor of twice the width, 20, got 3"),
        (partial(Mamba2, heads=4, groups=3), "expected groups as a divisor of the 4 heads, got 3"),
        (partial(XLSTM, width=9, heads=3), "expected an even width"),
        (partial(XLSTM, width=10, heads=3), "expected heads as a divisor of twice the width, 20, got 3"),
        (partial(TTT, width=12, heads=4), "expected an even size of each head"),
    ],
)
def test_sizes_that_do_not_fit_are_named(make: Callable[..., Layered], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(CLASSES)


@NAMES
def test_hundreds_of_steps_in_float32_stay_near_those_in_double(name: str) -> None:
    learner, support = build(CASES[name], CLASSES), make_episodes(CLASSES, n_tasks=1, n_support=500).support
    with torch.no_grad():
        rough, exact = learner.stream(support), learner.double().stream(doubled(support))
    assert (rough - exact).abs().max() < 1e-4 * exact.abs().max()


def test_a_label_reaches_the_input_of_the_step_before_within_one_layer() -> None:
    for name in CASES:
        learner = CASES[name](CLASSES, backbone=Flatten, depth=1)
        x, y = torch.randn(1, 3, 4), torch.tensor([[0, 1, 2]])
        phi = learner.adapt(Examples(x=x, y=y))
        other = learner.adapt(Examples(x=x, y=torch.tensor([[2, 1, 2]])))  # of the first example
        changed = [key for key, part in phi.items() if not torch.equal(part, other[key])]
        assert len([key for key in changed if key.startswith("0.")]) >= 2, name
