"""Transformer neural processes against torch's own transformer over all tokens at once, with an explicit mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Phi
from metabox.learners.cnp import CNP
from metabox.learners.tnp import TNPA, TNPD
from metabox.nn.transformer import TransformerLayer
from metabox.objectives import JointLoss, QueryLoss
from metabox.targets import Binary, Reals, TaskSpec
from metabox.testing import SPECS, build, make_episodes

KINDS = [SPECS[name] for name in ("classes of vectors", "reals", "binary labels", "reals with a descriptor")]


def torchs_encoder(learner: TNPD) -> nn.TransformerEncoder:
    """torch's transformer with the learner's weights."""
    own = learner.transformer
    heads, width, hidden = own.layers[0].heads, own.norm.normalized_shape[0], learner.readout[0].out_features
    layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, len(own.layers), norm=nn.LayerNorm(width), enable_nested_tensor=False)
    for theirs, ours in zip(encoder.layers, own.layers, strict=True):
        copied = {
            "self_attn.in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
            "self_attn.in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]),
            **{f"self_attn.out_proj.{name}": value for name, value in ours.out.state_dict().items()},
            **{f"linear1.{name}": value for name, value in ours.feed_forward[0].state_dict().items()},
            **{f"linear2.{name}": value for name, value in ours.feed_forward[-1].state_dict().items()},
            **{f"norm1.{name}": value for name, value in ours.norms[0].state_dict().items()},
            **{f"norm2.{name}": value for name, value in ours.norms[1].state_dict().items()},
        }
        theirs.load_state_dict(copied)
    encoder.norm.load_state_dict(own.norm.state_dict())
    return encoder.train()  # without dropout; in evaluation torch takes another road


def pairs(learner: TNPD, examples: Examples, z: Tensor | None, blank: bool = False) -> Tensor:
    """The tokens of one task's real examples: (x, y), or (x, 0)."""
    features = learner.embed.backbone(examples.x[0, examples.mask[0]])
    labels = learner.spec.target.encode(examples.y, examples.mask)[0, examples.mask[0]]
    given = [] if z is None else [z.expand(len(features), -1)]
    embed = nn.Sequential(*learner.embed_pair)
    return embed(torch.cat([features, *given, torch.zeros_like(labels) if blank else labels], dim=-1))


def plain(learner: TNPD, episodes: Episodes, autoregressive: bool) -> Tensor:
    """`create_mask` of the authors' code: the tokens of one task are the N context pairs, the M target pairs (where
    autoregressive), and the M targets without label; which token sees which is a table over all of them.
    """
    z = episodes.descriptor
    context = pairs(learner, episodes.support, z)
    real, blank = pairs(learner, episodes.query, z), pairs(learner, episodes.query, z, blank=True)
    n, m = len(context), len(blank)
    tokens = torch.cat([context, real, blank] if autoregressive else [context, blank])
    sees = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for i in range(len(tokens)):
        for j in range(len(tokens)):
            if j < n:
                sees[i, j] = True  # all see the context
            elif autoregressive and i < n + m and j < n + m:
                sees[i, j] = i >= n and j <= i  # a labelled target sees those before it and itself
            elif autoregressive and i >= n + m and j < n + m:
                sees[i, j] = j - n < i - n - m  # an unlabelled one those before it
    hidden = torchs_encoder(learner)(tokens[None], mask=~sees)[0, -m:]
    return nn.Sequential(*learner.readout)(hidden)


def ragged(spec: TaskSpec) -> Episodes:
    episodes = make_episodes(spec)
    s = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False, True] + [False] * 4])
    q = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, False]])
    return replace(episodes, support=replace(episodes.support, mask=s), query=replace(episodes.query, mask=q)).blanked()


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_tnpd_is_torchs_transformer_with_the_papers_mask_over_all_tokens(spec: TaskSpec) -> None:
    learner, episodes = build(TNPD, spec), ragged(spec)
    got = learner(episodes)
    for t in range(3):
        one = episodes[t : t + 1]
        wanted = plain(learner, one, autoregressive=False)
        torch.testing.assert_close(got[t, one.query.mask[0]], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_tnpas_joint_is_torchs_transformer_with_the_papers_mask_over_all_tokens(spec: TaskSpec) -> None:
    learner, episodes = build(TNPA, spec), ragged(spec)
    got = learner.joint(learner.adapt(episodes.support, episodes.descriptor, episodes.label_set(spec)), episodes.query)
    for t in range(3):
        one = episodes[t : t + 1]
        wanted = plain(learner, one, autoregressive=True)
        torch.testing.assert_close(got[t, one.query.mask[0]], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_support", [0, 6])
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_the_joint_is_predicting_and_then_extending_by_one_labelled_query_at_a_time(
    spec: TaskSpec, n_support: int
) -> None:
    learner, episodes = build(TNPA, spec), make_episodes(spec, n_support=n_support)
    query = replace(episodes.query, mask=ragged(spec).query.mask).blanked()
    phi = learner.adapt(episodes.support, episodes.descriptor)
    joint = learner.joint(phi, query)
    held = {name: value.clone() for name, value in phi.items()}
    for m in range(4):
        alone = learner.predict(phi, query.x[:, m : m + 1])
        torch.testing.assert_close(joint[:, m : m + 1], alone, rtol=1e-4, atol=1e-5)
        phi = learner.extend(phi, query[:, m : m + 1])
    for name, value in held.items():  # the support's own tokens stay as they were
        there = (
            phi[name] if phi[name].shape == value.shape else phi[name].narrow(-2 if value.ndim > 2 else 1, 0, n_support)
        )
        assert torch.equal(there, value), name


def test_several_examples_extend_phi_as_one_after_the_other() -> None:
    spec = SPECS["reals"]
    learner, episodes = build(TNPA, spec), make_episodes(spec)
    together = learner.extend(learner.adapt(episodes.support), episodes.query)
    one_by_one = learner.adapt(episodes.support)
    for m in range(4):
        one_by_one = learner.extend(one_by_one, episodes.query[:, m : m + 1])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


def test_no_label_reaches_the_prediction_of_its_own_query_or_of_an_earlier_one() -> None:
    spec = SPECS["reals"]
    learner, episodes = build(TNPA, spec), make_episodes(spec)
    phi, query = learner.adapt(episodes.support), episodes.query
    before = learner.joint(phi, query)
    for m in range(4):
        y = query.y.clone()
        y[:, m] += 10
        after = learner.joint(phi, replace(query, y=y))
        assert torch.equal(after[:, : m + 1], before[:, : m + 1])
        assert (after[:, m + 1 :] - before[:, m + 1 :]).abs().amin((0, 2)).gt(0).all()


def test_attention_over_nothing_is_zero_and_has_a_gradient() -> None:
    layer = TransformerLayer(8, 2, 16)
    tokens = torch.randn(3, 4, 8, requires_grad=True)
    keys, values = layer.keys_values(torch.randn(3, 5, 8))
    nothing = torch.zeros(3, 1, 5, dtype=torch.bool)
    got = layer(tokens, keys, values, nothing)
    alone = tokens + layer.out.bias
    torch.testing.assert_close(got, alone + layer.feed_forward(layer.norms[1](alone)))
    got.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


# ------------------------------------------------------------------ the joint loss


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_the_joint_loss_is_the_log_likelihood_of_all_queries_by_the_chain_rule(spec: TaskSpec) -> None:
    learner, likelihood, episodes = build(TNPA, spec), spec.target, ragged(spec)
    got = JointLoss(learner)(episodes)
    for t in range(3):
        one, total = episodes[t : t + 1], torch.tensor(0.0)
        seen = [i for i in range(4) if one.query.mask[0, i]]
        phi = learner.adapt(one.support, one.descriptor, one.label_set(spec))
        for m in seen:
            total = (
                total
                - likelihood.log_prob(learner.predict(phi, one.query.x[:, m : m + 1]), one.query.y[:, m : m + 1])[0, 0]
            )
            phi = learner.extend(phi, one.query[:, m : m + 1])
        torch.testing.assert_close(got["loss"][t], total / len(seen), rtol=1e-4, atol=1e-5)
    assert set(got) == {"loss", "squared_error" if isinstance(spec.target, Reals) else "accuracy"}
    assert got["loss"].dtype == torch.float32


def test_the_first_query_costs_the_same_in_both_losses_and_a_single_one_is_all_there_is() -> None:
    spec = SPECS["reals"]
    episodes = make_episodes(spec, n_query=1)
    learner = build(TNPA, spec)
    wanted = QueryLoss(learner)(episodes)
    torch.testing.assert_close(JointLoss(learner)(episodes), wanted, rtol=1e-4, atol=1e-5)


def test_with_the_joint_loss_every_parameter_gets_a_gradient() -> None:
    spec = SPECS["reals"]
    learner = build(TNPA, spec).train()
    JointLoss(learner)(make_episodes(spec))["loss"].sum().backward()
    assert not [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-6]


def test_the_joint_loss_learns_what_no_marginal_can_tell() -> None:
    """Without a support, all targets of a task are one fair coin: jointly one bit, marginally one bit each."""
    spec = TaskSpec((1,), Binary(1))
    torch.manual_seed(0)
    learner = TNPA(spec, width=32, depth=2, feed_forward=32)
    objective: JointLoss = JointLoss(learner)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)

    def episodes(n_tasks: int) -> Episodes:
        y = torch.randint(2, (n_tasks, 1, 1)).expand(-1, 4, -1).float()
        x = torch.randn(n_tasks, 4, 1)
        return Episodes(support=Examples(x=x[:, :0], y=y[:, :0]), query=Examples(x=x, y=y))

    for _ in range(150):
        optimizer.zero_grad()
        objective(episodes(32))["loss"].mean().backward()
        optimizer.step()
    test = episodes(200)
    with torch.no_grad():
        joint = float(objective(test)["loss"].mean())
        marginal = float(QueryLoss(learner)(test)["loss"].mean())
    assert joint == pytest.approx(0.6931 / 4, abs=0.05)
    assert marginal == pytest.approx(0.6931, abs=0.05)


def test_a_learner_without_a_joint_is_refused() -> None:
    spec = SPECS["reals"]
    with pytest.raises(ValueError, match=r"expected a learner with a method joint.*got CNP.*use QueryLoss"):
        JointLoss(build(CNP, spec))
    with pytest.raises(ValueError, match="expected heads as a divisor of the width, 64, got 5"):
        TNPD(spec, heads=5)


def test_a_query_of_another_kind_is_refused() -> None:
    spec = SPECS["reals"]
    learner, episodes = build(TNPA, spec), make_episodes(spec)
    phi: Phi = learner.adapt(episodes.support)
    bad = Examples(x=episodes.query.x, y=episodes.query.y[..., :1])
    for method in (learner.joint, learner.extend):
        with pytest.raises(ValueError, match=r"expected y as floats \[T, N, 2\]"):
            method(phi, bad)
