"""What every learner must pass. Each `check_...` function is one property; `CHECKS` holds them all."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.scaler import Scaler
from metabox.objectives import QueryLoss
from metabox.targets import Target, TaskSpec
from metabox.tensors import load_tensors, load_weights, save_tensors
from metabox.testing import options, units
from metabox.testing.cases import SPECS, MakeLearner, build, make_episodes, outputs, reads_support, small_family


def _close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def check_padding_changes_nothing(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    s, junk = episodes.support, make_episodes(spec, seed=1).support
    mixed = Examples(
        x=torch.cat([junk.x[:, :2], s.x, junk.x[:, 2:]], 1),
        y=torch.cat([junk.y[:, :2], s.y, junk.y[:, 2:]], 1),
        mask=torch.cat([~junk.mask[:, :2], s.mask, ~junk.mask[:, 2:]], 1),
    )
    _close(outputs(learner, episodes, mixed), outputs(learner, episodes))


def check_order_of_support_changes_nothing(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    if learner.ordered:
        return
    order = torch.randperm(episodes.support.x.shape[1])
    shuffled = Examples(x=episodes.support.x[:, order], y=episodes.support.y[:, order])
    _close(outputs(learner, episodes, shuffled), outputs(learner, episodes))


def check_queries_do_not_see_each_other(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    if learner.transductive:
        return
    alone = replace(episodes, query=episodes.query[:, 1:2])
    _close(outputs(learner, alone), outputs(learner, episodes)[:, 1:2])


def check_tasks_do_not_see_each_other(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    whole = learner.predict(phi, episodes.query.x)
    second: Phi = {name: value[1:2] for name, value in phi.items()}
    _close(learner.predict(second, episodes.query.x[1:2]), whole[1:2])
    _close(outputs(learner, episodes[1:2]), whole[1:2])


def check_an_empty_support_gives_finite_predictions(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec, n_support=0)
    assert outputs(learner, episodes).isfinite().all()
    learner.train()
    assert outputs(learner, episodes).isfinite().all()


def check_streaming_is_adapting_step_by_step(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    s = episodes.support
    holes = Examples(x=s.x, y=s.y, mask=torch.rand(s.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.7)
    for sequence in (s, holes):  # predictions at a hole are meaningless
        streamed = learner.stream(sequence, episodes.descriptor)
        every = torch.ones(len(s), spec.target.size, dtype=torch.bool) if spec.target.n_classes is not None else None
        steps = [
            learner.predict(learner.adapt(sequence[:, :t], episodes.descriptor, every), s.x[:, t : t + 1])
            for t in range(s.x.shape[1])
        ]
        _close(streamed[sequence.mask], torch.cat(steps, dim=1)[sequence.mask])


def check_adapting_to_other_tasks_leaves_phi_unchanged(make: MakeLearner, spec: TaskSpec) -> None:
    learner, a, b = build(make, spec), make_episodes(spec), make_episodes(spec, seed=1)
    phi = learner.adapt(a.support, a.descriptor)
    before, weights = learner.predict(phi, a.query.x), {k: v.clone() for k, v in learner.state_dict().items()}
    outputs(learner, b)
    assert torch.equal(learner.predict(phi, a.query.x), before)
    assert all(torch.equal(value, weights[name]) for name, value in learner.state_dict().items())


def check_renaming_classes_renames_predictions(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    if spec.target.n_classes is None or not learner.label_equivariant:
        return
    new_name = torch.tensor([2, 0, 1])
    renamed = Examples(x=episodes.support.x, y=new_name[episodes.support.y])
    _close(outputs(learner, episodes, renamed)[..., new_name], outputs(learner, episodes))


def check_other_shots_and_ways_work(make: MakeLearner, spec: TaskSpec) -> None:
    learner = build(make, spec)
    for n_support in (1, 2, 13):
        episodes = make_episodes(spec, n_support=n_support)
        params = outputs(learner, episodes)
        assert params.shape == (3, 4, learner.n_params)
        assert params.isfinite().all()
        if spec.target.n_classes is not None:  # 2 of 3 ways; a support of one example shows one
            s = replace(episodes.support, y=episodes.support.y.clamp(max=1))
            phi = learner.adapt(s, episodes.descriptor, torch.tensor([[True, True]]).expand(3, -1))
            log_probs = spec.target.log_prob(learner.predict(phi, episodes.query.x), episodes.query.y % 2)
            assert log_probs.isfinite().all()


def check_no_class_outside_the_label_set_is_predicted(make: MakeLearner, spec: TaskSpec) -> None:
    if spec.target.n_classes is None:
        return
    learner, episodes = build(make, spec), make_episodes(spec)
    s, x = replace(episodes.support, y=2 * (episodes.support.y % 2)), episodes.query.x  # no example of class 1
    has = torch.tensor([[True, False, True]]).expand(len(s), -1)
    for classes in (None, has):
        probability = learner.predict(learner.adapt(s, episodes.descriptor, classes), x).softmax(-1)
        assert (probability[..., 1] == 0).all(), "a class outside the label set has a probability above 0"
        torch.testing.assert_close(probability.sum(-1), torch.ones(probability.shape[:2]))
    every = learner.predict(learner.adapt(s, episodes.descriptor, torch.ones_like(has)), x)
    assert (every > torch.finfo(every.dtype).min / 2).all(), "a class in the label set is masked"
    streamed = learner.stream(s, episodes.descriptor, has).softmax(-1)
    assert (streamed[..., 1] == 0).all()
    learner.train()
    params = learner.predict(learner.adapt(s, episodes.descriptor, has), x)
    spec.target.log_prob(params, 2 * (episodes.query.y % 2)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
    _raises(
        lambda: learner.eval().adapt(replace(s, y=s.y.clamp(max=1)), episodes.descriptor, has)
    )  # class 1 is not in it
    _raises(lambda: learner.adapt(s, episodes.descriptor, has.float()))
    _raises(lambda: learner.adapt(s, episodes.descriptor, has[:1]))


def check_saving_and_loading_gives_the_same_bits(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    phi = learner.adapt(episodes.support, episodes.descriptor)
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "weights.safetensors", learner.state_dict())
        save_tensors(Path(folder) / "phi.safetensors", phi)
        again = make(spec).eval()
        load_weights(again, Path(folder) / "weights.safetensors")
        served, _ = load_tensors(Path(folder) / "phi.safetensors")
        assert torch.equal(outputs(again, episodes), outputs(learner, episodes))
        assert torch.equal(again.predict(served, episodes.query.x), learner.predict(phi, episodes.query.x))


def check_bf16_stays_close_to_float32(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    exact = outputs(learner, episodes)
    with torch.autocast("cpu", torch.bfloat16):
        rough = outputs(learner, episodes).float()
    # bf16 keeps 8 bits: an error of 1 % of the outputs' size in each of a few layers
    assert (rough - exact).abs().max() <= 0.05 * (1 + exact.abs().max())


def check_every_parameter_gets_a_gradient(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec).train(), make_episodes(spec)
    for _ in range(2):  # a unit may be saturated for one draw of the weights
        with torch.no_grad():  # with small initial weights all classes look alike and gradients vanish
            for p in learner.parameters():
                p.add_(torch.randn_like(p), alpha=0.2)
        QueryLoss(learner)(episodes)["loss"].sum().backward()
    # A gradient that differs from zero only by rounding does not count.
    without = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-6]
    assert not without, f"no gradient reaches {without}"


def check_it_learns_a_small_family_of_tasks(make: MakeLearner, spec: TaskSpec) -> None:
    """Two opposite points, and two tasks that swap their targets: only the support tells which task it is.

    For a learner that does not read the support, the descriptor tells the task; without a descriptor there is one.

    A recurrent learner takes thousands of steps to bind a label to the input of the step before. For an `ordered`
    learner, both points therefore have the same target within a task.
    """
    torch.manual_seed(0)
    learner = make(spec)
    objective, optimizer = QueryLoss(learner), torch.optim.Adam(learner.parameters(), lr=3e-3)
    random = torch.Generator().manual_seed(0)
    best = math.inf
    for _ in range(400):
        result = objective(small_family(spec, learner, random))
        best = min(best, _error(spec, result))
        if best < 0.02:
            return
        optimizer.zero_grad()
        result["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
    raise AssertionError(f"expected to learn the family to an error below 0.02, got {best:.3f}")


def _error(spec: TaskSpec, result: dict[str, Tensor]) -> float:
    """An error that is 0 once everything is learned; for parts, the largest of their errors."""
    if not spec.target.parts:
        return float(result["squared_error" if "squared_error" in result else "loss"].detach().mean())
    means = {name: float(score.mean()) for name, score in result.items() if name.startswith(("accuracy", "squared"))}
    return max(1 - mean if name.startswith("accuracy") else mean for name, mean in means.items())


def check_only_a_learner_that_reads_the_support_depends_on_it(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    got, other = outputs(learner, episodes), outputs(learner, episodes, make_episodes(spec, seed=1).support)
    assert torch.equal(got, other) != reads_support(learner)


def check_the_descriptor_is_used(make: MakeLearner, spec: TaskSpec) -> None:
    if not spec.descriptor_size:
        return
    learner, episodes = build(make, spec), make_episodes(spec)
    assert episodes.descriptor is not None
    other = replace(episodes, descriptor=episodes.descriptor.roll(1, 0))  # of another task
    assert not torch.allclose(outputs(learner, other), outputs(learner, episodes), atol=1e-4)


def check_bad_input_raises_a_value_error(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    s = episodes.support
    bad = [Examples(x=torch.cat([s.x, s.x], -1), y=s.y)]
    if spec.target.n_classes is not None:
        bad += [Examples(x=s.x, y=s.y + spec.target.size), Examples(x=s.x, y=s.y[..., None].float())]
    else:
        nonsense = math.inf if spec.target.parts else math.nan  # in a part, NaN is a missing label
        bad += [Examples(x=s.x, y=s.y + nonsense), Examples(x=s.x, y=s.y[..., 0].long())]
    if spec.target.parts:
        bad += [Examples(x=s.x, y=s.y + 10)]  # classes out of range
    if s.x.is_floating_point():
        bad += [Examples(x=s.x * math.inf, y=s.y)]
    for support in bad:
        _raises(lambda support=support: learner.adapt(support, episodes.descriptor))  # type: ignore[misc]
    _raises(lambda: learner.adapt(s, torch.zeros(3, spec.descriptor_size + 1)))
    phi = learner.adapt(s, episodes.descriptor)
    _raises(lambda: learner.predict(phi, episodes.query.x[..., :-1]))
    _raises(lambda: learner.predict(phi, episodes.query.x[:1]))
    for x in (episodes.query.x.tolist(), episodes.query.x.half(), episodes.query.x.long()):
        _raises(lambda x=x: learner.predict(phi, x))  # type: ignore[misc]
    for foreign in ({}, phi | {"of another": next(iter(phi.values()))}):
        _raises(lambda foreign=foreign: learner.predict(foreign, episodes.query.x))  # type: ignore[misc]


def _raises(call: Callable[[], object]) -> None:
    try:
        call()
    except ValueError as error:
        if "expected" not in str(error):
            raise AssertionError(f"expected an error that says what was expected, got {error}") from error
        return
    raise AssertionError("expected a ValueError for bad input, got an answer")


def check_arrays_of_float64_are_taken(make: MakeLearner, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    z, s = episodes.descriptor, episodes.support
    support = Examples(x=_array(s.x), y=_array(s.y), mask=s.mask.numpy())  # type: ignore[arg-type]  # arrays
    phi = learner.adapt(support, None if z is None else _array(z), episodes.label_set(spec))
    got, wanted = learner.predict(phi, _array(episodes.query.x)), outputs(learner, episodes)
    assert got.dtype == wanted.dtype, f"predictions in {got.dtype} for inputs in float64"
    _close(got, wanted)


def _array(t: Tensor) -> Any:
    return (t.double() if t.is_floating_point() else t).numpy()


def check_numbers_come_in_any_unit(make: MakeLearner, spec: TaskSpec) -> None:
    """With a `scale`: the same predictions with x in days from 0 to 6570, and y = 5000 + 20 times as much."""
    for scale in () if spec.descriptor_size else build(make, spec).scales:  # a descriptor has no part in it
        if Scaler.of(scaled := replace(spec, scale=scale)) is not None:
            units.check_scaled_predictions(make, scaled)
            if scale == "support":
                check_streaming_is_adapting_step_by_step(make, scaled)


def check_senseless_options_are_named(make: MakeLearner, spec: TaskSpec) -> None:
    options.check_senseless_options_are_refused(make, spec)


def check_every_option_changes_the_record(make: MakeLearner, spec: TaskSpec) -> None:
    fits = (kind for kind in SPECS.values() if isinstance(kind.target, getattr(make, "targets", Target)))
    if spec == next(fits, None):  # once is enough: the record is none of the tasks
        options.check_every_option_is_in_the_record(make, spec)


CHECKS: dict[str, Callable[[MakeLearner, TaskSpec], None]] = {
    name: value for name, value in list(globals().items()) if name.startswith("check_")
}


def check_learner(make: type[Learner]) -> None:
    """Run every check on every kind of task that the learner declares in `targets`.

    Raises:
        AssertionError: for the first property that does not hold, with its name and the kind of task.
    """
    for kind, spec in SPECS.items():
        for name, check in CHECKS.items():
            if isinstance(spec.target, make.targets):
                try:
                    check(make, spec)
                except Exception as error:
                    raise AssertionError(f"{name.replace('_', ' ')} ({kind}): {error}") from error
