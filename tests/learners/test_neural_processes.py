"""Neural processes: plain transcriptions, torch.distributions, and the package `neuralprocesses`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal, kl_divergence

from metabox.episodes import Episodes, Examples
from metabox.learners.anp import ANP
from metabox.learners.base import within
from metabox.learners.cnp import CNP
from metabox.learners.neural_process import NP, NeuralProcess
from metabox.nn.attention import CrossAttention
from metabox.nn.backbones import MLP
from metabox.nn.mlp import Perceptron
from metabox.objectives import LatentLoss, QueryLoss, normal_kl
from metabox.targets import Binary, Classes, Reals, TaskSpec
from metabox.testing import SPECS, build, make_episodes, outputs

CLASSES, REALS, BINARY = (SPECS[name] for name in ("classes of vectors", "reals", "binary labels"))
KINDS = [CLASSES, REALS, BINARY, SPECS["classes with a descriptor"], SPECS["reals with a descriptor"]]
Make = Callable[[TaskSpec, int], NeuralProcess]
MAKERS: dict[str, Make] = {
    "NP": NP,
    "ANP": ANP,
    "ANP with self-attention": partial(ANP, self_attention=2),
    "ANP uniform": partial(ANP, attention="uniform"),
    "ANP laplace": partial(ANP, attention="laplace"),
    "ANP dot": partial(ANP, attention="dot", self_attention=1),
}


def ragged(spec: TaskSpec) -> Episodes:
    """Episodes whose supports have 6, 4 and 0 real examples, with padding in between."""
    episodes = make_episodes(spec)
    s = torch.tensor([[True] * 6, [True, False, True, True, False, True], [False] * 6])
    q = torch.tensor([[True] * 4, [True, False, True, True], [False, True, True, False]])
    return replace(episodes, support=replace(episodes.support, mask=s), query=replace(episodes.query, mask=q))


# ------------------------------------------------------------------ plain transcriptions


def plain_mlp(perceptron: Perceptron, x: Tensor) -> Tensor:
    for layer in perceptron:
        x = layer(x)
    return x


def plain_attention(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """The softmax of q.k / sqrt(d), and what it weighs."""
    weights = torch.stack([query @ key / math.sqrt(len(query)) for key in keys]).softmax(0)
    return sum((w * value for w, value in zip(weights, values, strict=True)), torch.zeros_like(values[0]))


def plain_heads(query: Tensor, keys: list[Tensor], values: list[Tensor], heads: int) -> Tensor:
    size = len(query) // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    return torch.cat([plain_attention(query[p], [k[p] for k in keys], [v[p] for v in values]) for p in parts])


def plain_self_attention(layer: Any, tokens: list[Tensor]) -> list[Tensor]:
    normed = [layer.norms[0](token) for token in tokens]
    keys, values = ([layer.key_value(n).chunk(2)[i] for n in normed] for i in (0, 1))
    seen = [plain_heads(layer.query(n), keys, values, layer.heads) for n in normed]
    tokens = [token + layer.out(s) for token, s in zip(tokens, seen, strict=True)]
    return [token + plain_mlp(layer.feed_forward, layer.norms[1](token)) for token in tokens]


def plain_encoder(encoder: Any, pairs: list[Tensor]) -> list[Tensor]:
    codes = [plain_mlp(encoder.perceptron, pair) for pair in pairs]
    for layer in encoder.layers if codes else []:
        codes = plain_self_attention(layer, codes)
    return codes


def plain_cross_attention(attention: CrossAttention, x: Tensor, inputs: list[Tensor], values: list[Tensor]) -> Tensor:
    """The four forms of Kim et al. 2019."""
    if not values:
        return torch.zeros(128)
    if attention.kind == "uniform":
        return torch.stack(values).mean(0)
    query, keys = plain_mlp(attention.represent, x), [plain_mlp(attention.represent, i) for i in inputs]
    if attention.kind == "laplace":
        weights = torch.stack([-(query - key).abs().sum() for key in keys]).exp()
        return sum((w * v for w, v in zip(weights / weights.sum(), values, strict=True)), torch.zeros(128))
    if attention.kind == "dot":
        return plain_attention(query, keys, values)
    keys, values = [attention.key(key) for key in keys], [attention.value(value) for value in values]
    return attention.out(plain_heads(attention.query(query), keys, values, attention.heads))


class Plain:
    """A neural process on one task, one example at a time."""

    def __init__(self, learner: NeuralProcess, episodes: Episodes, t: int) -> None:
        self.learner, self.spec = learner, learner.spec
        self.z = [] if episodes.descriptor is None else [episodes.descriptor[t]]
        seen = self.real(episodes.support, t)
        self.inputs, self.labels = [self.features(x) for x, _ in seen], [y for _, y in seen]
        self.codes: list[Tensor] = [torch.empty(0)] * len(seen)
        for members in self.sets(seen):
            codes = plain_encoder(learner.encoder, [self.pair(*seen[i]) for i in members])
            for i, code in zip(members, codes, strict=True):
                self.codes[i] = code

    def real(self, examples: Examples, t: int) -> list[tuple[Tensor, Tensor]]:
        return [(x, y) for x, y, m in zip(examples.x[t], examples.y[t], examples.mask[t], strict=True) if m]

    def features(self, x: Tensor) -> Tensor:
        return torch.cat([self.learner.embed.backbone(x), *self.z])

    def pair(self, x: Tensor, y: Tensor) -> Tensor:
        return self.features(x) if self.spec.target.n_classes is not None else torch.cat([self.features(x), y])

    def sets(self, seen: list[tuple[Tensor, Tensor]]) -> list[list[int]]:
        """The examples of each class that has some, or all examples."""
        if self.spec.target.n_classes is None:
            return [list(range(len(seen)))]
        by_class = [[i for i, (_, y) in enumerate(seen) if int(y) == c] for c in range(self.spec.target.size)]
        return [members for members in by_class if members]

    def posterior(self, seen: list[tuple[Tensor, Tensor]]) -> Normal:
        """s = the mean of s_i; a ReLU layer; the mean over classes, where there are several; a linear layer."""
        latent, hidden = self.learner.latent, []
        for members in self.sets(seen) if seen else []:
            s_i = plain_encoder(latent.encoder, [self.pair(*seen[i]) for i in members])
            hidden.append(torch.relu(latent.penultimate(torch.stack(s_i).mean(0))))
        pooled = torch.stack(hidden).mean(0) if hidden else torch.zeros(latent.penultimate.out_features)
        mean, raw = latent.head(pooled).chunk(2)
        return Normal(mean, 0.1 + 0.9 * torch.sigmoid(raw))

    def read(self, h: Tensor, members: list[int]) -> Tensor:
        inputs, codes = [self.inputs[i] for i in members], [self.codes[i] for i in members]
        if isinstance(self.learner, ANP):
            return plain_cross_attention(self.learner.attention, h, inputs, codes)
        return torch.stack(codes).mean(0) if codes else torch.zeros(128)

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        h, everything = self.features(x), list(range(len(self.labels)))
        if self.spec.target.n_classes is None:
            return plain_mlp(self.learner.decoder, torch.cat([h, self.read(h, everything), z]))
        scores = []
        for c in range(self.spec.target.size):
            mine = [i for i in everything if int(self.labels[i]) == c]
            parts = [h, self.read(h, mine), self.read(h, everything), z]
            scores.append(plain_mlp(self.learner.decoder, torch.cat(parts))[0])
        return torch.stack(scores)


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


# ------------------------------------------------------------------ predictions as a mixture over z


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


def test_a_mixture_of_equals_is_each_of_them() -> None:
    for spec in (CLASSES, REALS, BINARY):
        likelihood = spec.target
        params = 3 * torch.randn(3, 1, 5, likelihood.n_params)
        got = likelihood.mixture(params.expand(-1, 7, -1, -1))
        wanted = params[:, 0].log_softmax(-1) if spec.target.n_classes is not None else params[:, 0]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_mixture_of_normals_has_its_mean_and_variance_down_to_the_smallest_scale() -> None:
    likelihood = Reals(REALS.target.size, min_scale=0.1)
    params = torch.randn(3, 9, 5, 4)
    params[0] = torch.tensor([1.0, -1.0, -30.0, -30.0])  # all alike, and as sharp as can be
    means, scales = likelihood.mean_and_scale(params)
    mean, scale = likelihood.mean_and_scale(likelihood.mixture(params))
    mixture = MixtureSameFamily(
        Categorical(torch.ones(3, 5, 2, 9)), Normal(means.movedim(1, -1), scales.movedim(1, -1))
    )
    torch.testing.assert_close(mean, mixture.mean)
    torch.testing.assert_close(scale, mixture.stddev, rtol=1e-4, atol=1e-5)
    fixed = Reals(REALS.target.size, noise=0.3)
    torch.testing.assert_close(fixed.mixture(params[..., :2]), params[..., :2].mean(1))


def test_a_mixture_over_some_classes_is_that_of_their_distributions_and_keeps_a_gradient() -> None:
    likelihood = CLASSES.target
    logits = (3 * torch.randn(3, 9, 5, 3)).requires_grad_()
    have = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    got = likelihood.mixture(within(logits, have))
    for t, classes in enumerate(([0, 1], [0, 1, 2], [0])):
        wanted = Categorical(logits=logits[t][..., classes]).probs.mean(0)
        torch.testing.assert_close(got[t][:, classes].exp(), wanted)
    got[have[:, None].expand_as(got)].sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_mixture_of_yes_and_no_is_the_mean_probability() -> None:
    logits = 3 * torch.randn(3, 9, 5, 2)
    wanted = Bernoulli(logits=logits).probs.mean(1)
    torch.testing.assert_close(BINARY.target.mixture(logits).sigmoid(), wanted)


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


# ------------------------------------------------------------------ how they hang together


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


# ------------------------------------------------------------------ the bound


def test_the_kl_divergence_is_that_of_torch() -> None:
    means, scales = torch.randn(2, 3, 8), 0.1 + torch.rand(2, 3, 8)
    wanted = kl_divergence(Normal(means[0], scales[0]), Normal(means[1], scales[1])).sum(-1)
    torch.testing.assert_close(normal_kl(means[0], scales[0], means[1], scales[1]), wanted)


@pytest.mark.parametrize("predict_support", [False, True])
@pytest.mark.parametrize("spec", KINDS, ids=str)
@pytest.mark.parametrize("name", ["NP", "ANP with self-attention"])
def test_the_bound_is_its_plain_transcription(name: str, spec: TaskSpec, predict_support: bool) -> None:
    """Equation 9 of Garnelo et al. 2018b, task by task, with the draws that the objective makes."""
    learner, likelihood, episodes = build(MAKERS[name], spec), spec.target, ragged(spec)
    objective = LatentLoss(learner, n_samples=2, predict_support=predict_support)
    torch.manual_seed(3)
    got = objective(episodes)
    torch.manual_seed(3)
    noise = torch.randn(3, 2, 128)
    for t in range(3):
        plain = Plain(learner, episodes, t)
        context, targets = plain.real(episodes.support, t), plain.real(episodes.query, t)
        prior, posterior = plain.posterior(context), plain.posterior(context + targets)
        targets = context + targets if predict_support else targets
        expected = torch.tensor(0.0)
        for s in range(2):
            z = posterior.mean + posterior.stddev * noise[t, s]
            for x, y in targets:
                expected = expected + likelihood.log_prob(plain.decode(x, z)[None, None], y[None, None])[0, 0] / 2
        kl = kl_divergence(posterior, prior).sum()
        torch.testing.assert_close(got["loss"][t], (kl - expected) / len(targets), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(got["kl"][t], kl / len(targets), rtol=1e-4, atol=1e-5)
        params = torch.stack([plain.decode(x, prior.mean) for x, _ in targets])[None]
        y = torch.stack([y for _, y in targets])[None]
        for score, value in likelihood.scores(params, y).items():
            torch.testing.assert_close(got[score][t], value.mean(), rtol=1e-4, atol=1e-4)


def test_the_bound_is_below_the_log_likelihood_that_many_samples_give() -> None:
    learner, likelihood, episodes = build(NP, REALS), REALS.target, make_episodes(REALS)
    with torch.no_grad():
        bound = -LatentLoss(learner, n_samples=500)(episodes)["loss"]
        phi = learner.adapt(episodes.support)
        z = phi["z_mean"][:, None] + phi["z_scale"][:, None] * torch.randn(3, 2000, 128)
        params = learner.decode(phi, episodes.query.x, z)
        y = episodes.query.y.repeat_interleave(2000, 0)
        together = likelihood.log_prob(params.flatten(0, 1), y).view(3, 2000, 4).sum(-1)
        exact = (together.logsumexp(1) - math.log(2000)) / 4
    assert (bound <= exact + 0.01).all()
    assert (bound >= exact - 2).all()  # and not because it is something else


@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_without_queries_there_is_nothing_to_pay_and_nothing_to_learn(spec: TaskSpec) -> None:
    episodes = make_episodes(spec)
    nothing = replace(episodes, query=replace(episodes.query, mask=torch.zeros(3, 4, dtype=torch.bool)))
    got = LatentLoss(build(ANP, spec))(nothing)
    torch.testing.assert_close(got["loss"], torch.zeros(3), rtol=0, atol=1e-6)


def test_masked_classes_do_not_count_in_the_bound() -> None:
    learner = build(NP, replace(CLASSES, target=Classes(5)))
    few, episodes = build(NP, CLASSES), make_episodes(CLASSES)
    few.load_state_dict(learner.state_dict())
    mask = (torch.arange(5) < 3).expand(3, -1)
    torch.manual_seed(0)
    got = LatentLoss(learner)(replace(episodes, classes=mask))
    torch.manual_seed(0)
    torch.testing.assert_close(got, LatentLoss(few)(episodes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_with_the_bound_every_parameter_gets_a_gradient(name: str, spec: TaskSpec) -> None:
    learner = build(MAKERS[name], spec).train()
    result = LatentLoss(learner)(make_episodes(spec))
    result["loss"].sum().backward()
    assert not [n for n, p in learner.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-6]
    assert [n for n, value in result.items() if value.requires_grad] == ["loss"]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("spec", [CLASSES, REALS], ids=str)
def test_every_form_of_attention_is_defined_for_an_empty_support(name: str, spec: TaskSpec) -> None:
    learner, episodes = build(MAKERS[name], spec).train(), make_episodes(spec, n_support=0)
    LatentLoss(learner)(episodes)["loss"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_the_bounds_predictions_are_those_of_the_learner_and_its_losses_float32() -> None:
    learner, episodes = build(ANP, REALS), make_episodes(REALS)
    objective = LatentLoss(learner)
    params, examples = objective.predictions(episodes)
    assert torch.equal(params, outputs(learner, episodes))
    assert examples is episodes.query
    with torch.autocast("cpu", torch.bfloat16):
        assert {value.dtype for value in objective(episodes).values()} == {torch.float32}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a learner with a latent path, such as NP or ANP, got CNP"):
        LatentLoss(build(CNP, REALS))
    with pytest.raises(ValueError, match="expected heads to divide the width, got 5 heads for width 128"):
        ANP(REALS, heads=5)


def test_the_bound_teaches_a_level_that_all_targets_of_a_task_share() -> None:
    """y = level + noise: with a support the predicted mean is near the level, and the scale near the noise."""
    spec = TaskSpec((1,), Reals(1))
    torch.manual_seed(0)
    learner = NP(spec, width=32, latent=8)
    objective = LatentLoss(learner)
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)

    def episodes(n_tasks: int) -> tuple[Episodes, Tensor]:
        level = torch.randn(n_tasks, 1, 1)
        x, y = torch.randn(n_tasks, 20, 1), level + 0.2 * torch.randn(n_tasks, 20, 1)
        return Episodes(support=Examples(x=x[:, :10], y=y[:, :10]), query=Examples(x=x[:, 10:], y=y[:, 10:])), level

    for _ in range(400):
        optimizer.zero_grad()
        objective(episodes(32)[0])["loss"].mean().backward()
        optimizer.step()
    with torch.no_grad():
        test, level = episodes(200)
        mean, scale = objective.target.mean_and_scale(outputs(learner.eval(), test))  # type: ignore[attr-defined]
        assert float((mean - level).square().mean().sqrt()) < 0.2
        assert 0.15 < float(scale.mean()) < 0.35
        assert float(QueryLoss(learner)(test)["loss"].mean()) < 0.3


# ------------------------------------------------------------------ another library


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
