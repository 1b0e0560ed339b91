"""Neural processes: plain transcriptions, draws of z, and the package `neuralprocesses`."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from neural_process_cases import BINARY, CLASSES, KINDS, MAKERS, REALS, Make, Plain, ragged
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal

from metabox.episodes import Examples
from metabox.learners.anp import ANP
from metabox.learners.cnp import CNP
from metabox.learners.neural_process import NP
from metabox.nn.attention import CrossAttention
from metabox.nn.backbones import MLP
from metabox.nn.mlp import Perceptron
from metabox.objectives import LatentLoss
from metabox.targets import Binary, Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes, outputs


@pytest.mark.parametrize("spec", KINDS, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_a_neural_process_is_its_plain_transcription(name: str, spec: TaskSpec) -> None:
    learner, episodes = build(MAKERS[name], spec), ragged(spec)
    phi = learner.adapt(episodes.support.blanked(), episodes.descriptor, episodes.label_set(spec))
    z = torch.randn(3, 2, 128)
    got = learner.decode(phi, episodes.query.x, z)
    for t in range(3):
        plain = Plain(learner, episodes, t)
        prior = plain.posterior(plain.real(episodes.support, t))
        torch.testing.assert_close(phi["z_mean"][t], prior.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(phi["z_scale"][t], prior.stddev, rtol=1e-4, atol=1e-5)
        for s in range(2):
            wanted = torch.stack([plain.decode(x, z[t, s]) for x in episodes.query.x[t]])
            torch.testing.assert_close(got[t, s], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [CLASSES, REALS, BINARY], ids=str)
@pytest.mark.parametrize("make", [NP, ANP])
def test_a_prediction_is_the_mixture_over_the_fixed_draws_of_z(make: Make, spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), make_episodes(spec)
    got = outputs(learner, episodes)
    phi = learner.adapt(episodes.support)
    for t in range(3):
        samples = [
            learner.decode(
                {name: value[t : t + 1] for name, value in phi.items()},
                episodes.query.x[t : t + 1],
                (phi["z_mean"][t] + phi["z_scale"][t] * draw)[None, None],
            )[0, 0]
            for draw in learner.draws
        ]
        if spec.target.n_classes is not None:
            wanted = torch.stack([s.softmax(-1) for s in samples]).mean(0)
            torch.testing.assert_close(got[t].softmax(-1), wanted, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got[t].exp(), wanted, rtol=1e-4, atol=1e-5)
        elif isinstance(spec.target, Binary):
            wanted = torch.stack([s.sigmoid() for s in samples]).mean(0)
            torch.testing.assert_close(got[t].sigmoid(), wanted, rtol=1e-4, atol=1e-5)
        else:
            means, raw = torch.stack(samples).chunk(2, -1)
            scales = 0.01 + F.softplus(raw)
            mixture = MixtureSameFamily(Categorical(torch.ones(*means.shape[1:], 16)), _last(means, scales))
            mean, scale = got[t, :, :2], 0.01 + F.softplus(got[t, :, 2:])
            torch.testing.assert_close(mean, mixture.mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(scale.square(), mixture.variance, rtol=1e-4, atol=1e-5)


def _last(means: Tensor, scales: Tensor) -> Normal:
    return Normal(means.movedim(0, -1), scales.movedim(0, -1))


def test_the_fixed_draws_are_those_of_a_standard_normal_and_new_learners_have_the_same() -> None:
    draws = NP(REALS, n_samples=256).draws
    assert torch.equal(draws, NP(REALS, n_samples=256).draws)
    torch.testing.assert_close(draws.mean(0), torch.zeros(128), rtol=0, atol=0.02)
    torch.testing.assert_close(draws.var(0), torch.ones(128), rtol=0, atol=0.1)


@pytest.mark.parametrize("make", [NP, ANP])
def test_evaluation_repeats_itself_and_training_draws_from_torchs_generator(make: Make) -> None:
    learner, episodes = build(make, REALS), make_episodes(REALS)
    assert torch.equal(outputs(learner, episodes), outputs(learner, episodes))
    learner.train()
    torch.manual_seed(1)
    one, two = outputs(learner, episodes), outputs(learner, episodes)
    torch.manual_seed(1)
    assert not torch.equal(one, two)
    assert torch.equal(outputs(learner, episodes), one)


def test_a_fixed_noise_needs_the_means_alone() -> None:
    episodes = make_episodes(REALS)
    fixed = replace(REALS, target=Reals(2, noise=1.0))
    assert build(NP, fixed)(episodes).shape == (3, 4, 2)


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_with_a_decoder_that_ignores_z_the_neural_process_is_the_conditional_one(spec: TaskSpec) -> None:
    cnp, learner, episodes = build(CNP, spec), build(NP, spec), ragged(spec)
    learner.embed.load_state_dict(cnp.embed.state_dict())
    learner.encoder.perceptron = cnp.encoder
    first, theirs = learner.decoder[0], cnp.decoder[0]
    with torch.no_grad():
        first.weight.zero_()[:, : theirs.in_features] = theirs.weight
        first.bias.copy_(theirs.bias)
    for i in (2, 4):
        learner.decoder[i].load_state_dict(cnp.decoder[i].state_dict())
    got, wanted = outputs(learner, episodes), outputs(cnp, episodes)
    if spec.target.n_classes is not None:
        got, wanted = got.log_softmax(-1), wanted.log_softmax(-1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_uniform_attention_is_the_neural_process(spec: TaskSpec) -> None:
    uniform, episodes = build(partial(ANP, attention="uniform"), spec), ragged(spec)
    learner = NP(spec).eval()
    learner.load_state_dict(uniform.state_dict())
    torch.testing.assert_close(outputs(uniform, episodes), outputs(learner, episodes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["NP", "ANP with self-attention"])
def test_renaming_classes_renames_predictions_and_leaves_z_as_it_was(name: str) -> None:
    learner, episodes = build(MAKERS[name], CLASSES).double(), ragged(CLASSES)
    s, q = episodes.support, episodes.query.x.double()
    every = torch.ones(3, 3, dtype=torch.bool)
    here = learner.adapt(Examples(x=s.x.double(), y=s.y, mask=s.mask), None, every)
    for new_name in torch.tensor([[2, 0, 1], [1, 0, 2], [2, 1, 0]]):
        there = learner.adapt(Examples(x=s.x.double(), y=new_name[s.y], mask=s.mask), None, every)
        torch.testing.assert_close(there["z_mean"], here["z_mean"], rtol=1e-12, atol=1e-12)
        z = torch.randn(3, 2, 128, dtype=torch.float64)
        torch.testing.assert_close(
            learner.decode(there, q, z)[..., new_name], learner.decode(here, q, z), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("name", ["NP", "ANP with self-attention"])
def test_a_neural_process_built_for_more_classes_predicts_the_same_where_a_task_has_fewer(name: str) -> None:
    few = build(MAKERS[name], CLASSES)
    wide = replace(CLASSES, target=Classes(20))
    many = MAKERS[name](wide).eval()
    many.load_state_dict(few.state_dict())
    episodes = make_episodes(CLASSES)
    three = replace(episodes, classes=(torch.arange(20) < 3).expand(3, -1))
    wanted = CLASSES.target.log_probs(outputs(few, episodes))
    got = wide.target.log_probs(outputs(many, three))
    torch.testing.assert_close(got[..., :3], wanted, rtol=1e-5, atol=1e-5)


def test_a_perceptron_of_parts_is_that_of_their_concatenation() -> None:
    perceptron = Perceptron(10, 16, 3)
    a, b, c = torch.randn(2, 5, 1, 4), torch.randn(2, 1, 7, 5), torch.randn(1)
    together = torch.cat([a.expand(2, 5, 7, 4), b.expand(2, 5, 7, 5), c.expand(2, 5, 7, 1)], dim=-1)
    torch.testing.assert_close(perceptron(a, b, c), perceptron(together))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_every_form_of_attention_is_defined_for_an_empty_support(name: str, spec: TaskSpec) -> None:
    learner, episodes = build(MAKERS[name], spec).train(), make_episodes(spec, n_support=0)
    LatentLoss(learner)(episodes)["loss"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a learner with a latent path, such as NP or ANP, got CNP"):
        LatentLoss(build(CNP, REALS))
    with pytest.raises(ValueError, match="expected heads as a divisor of the width, 128, got 5"):
        ANP(REALS, heads=5)


@pytest.fixture(scope="module")
def nps() -> Any:
    """The package of Bruinsma et al.; what it warns of while it is imported is not about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("neuralprocesses.torch", reason="neuralprocesses is not installed")


def test_the_cnp_is_that_of_neuralprocesses(nps: Any) -> None:
    """The same weights give the same means and variances; their deep sets sum by default, and average here."""
    spec = TaskSpec((2,), Reals(2))
    ours = build(lambda s: CNP(s, backbone=partial(MLP, depth=0), width=16), spec)
    theirs = nps.construct_gnp(
        dim_x=2, dim_y=2, dim_embedding=16, num_enc_layers=2, num_dec_layers=2, width=16, likelihood="het"
    )
    (deep_set,) = (module for module in theirs.modules() if type(module).__name__ == "DeepSet")
    deep_set.agg = lambda codes: codes.mean(-1, keepdim=True)
    linear = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    mine = [layer for network in (ours.encoder, ours.decoder) for layer in network if isinstance(layer, nn.Linear)]
    for there, here in zip(linear, mine, strict=True):
        there.load_state_dict(here.state_dict())
    episodes = make_episodes(spec)
    s, q = episodes.support, episodes.query
    with torch.no_grad():
        prediction = theirs(s.x.mT, s.y.mT, q.x.mT)  # channels first
        mean, raw = outputs(ours, episodes).chunk(2, -1)
    torch.testing.assert_close(prediction.mean.mT, mean, rtol=1e-4, atol=1e-5)
    # Their softplus gives a variance, and adds 1e-6.
    torch.testing.assert_close(prediction.var.mT, F.softplus(raw) + 1e-6, rtol=1e-4, atol=1e-5)


def test_the_cross_attention_is_that_of_neuralprocesses(nps: Any) -> None:
    """Their attention has no linear maps before it, and residual layers behind: these are taken away here."""
    theirs = nps.Attention(dim_x=2, dim_y=2, dim_embedding=16, num_heads=4, num_enc_layers=1)
    ours = CrossAttention("multihead", 2, 16, heads=4)
    with torch.no_grad():
        for eye in (ours.query, ours.key, ours.value):
            eye.weight.copy_(torch.eye(16))
        ours.represent.load_state_dict(theirs.encoder_x.net.state_dict())
        mixer = theirs.mixer.net
        ours.out.weight.copy_(mixer.weight)
        mixer.bias.zero_()
        values = make_episodes(REALS).support
        theirs.ln1 = theirs.ln2 = nn.Identity()
        theirs.mlp1 = theirs.mlp2 = Zero()
        x = torch.randn(3, 4, 2)
        _, wanted = nps.code(theirs, values.x.mT, values.y.mT, x.mT, root=True)
        codes = theirs.encoder_xy(torch.cat([values.x, values.y], -1).mT).mT
        got = ours(x, values.x, codes, values.mask[..., None].float()).squeeze(2)
    torch.testing.assert_close(got, wanted.mT, rtol=1e-4, atol=1e-5)


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)
