"""HyperNetwork and HyperTransformer against plain transcriptions: weights of one task, torch's layers, no padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, DESCRIBED_REALS, REALS, embedding, in_double, mean, ragged, real_examples
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.learners.hypernetwork import HyperNetwork
from metabox.learners.hypertransformer import HyperTransformer, WeightGenerator
from metabox.nn.norm import NORMS
from metabox.targets import Binary, Classes, TaskSpec
from metabox.testing import CHECKS, SPECS, build, make_episodes, outputs

BINARY = TaskSpec((4,), Binary(2))
IMAGES = SPECS["classes of images"]
SMALL = {"layers": 2, "channels": 3, "embedding": 6, "local_features": 4, "global_features": 5, "depth": 2}


def described(episodes: Episodes, t: int) -> list[Tensor]:
    return [] if episodes.descriptor is None else [episodes.descriptor[t]]


def pixels(x: Tensor) -> Tensor:
    """An input as an image of floats; a vector is one of one pixel."""
    return x.float() / 255 if x.ndim == 3 else x[:, None, None]


# ------------------------------------------------------------------ HyperNetwork


def plain_kernel(learner: HyperNetwork, z: Tensor) -> Tensor:
    """Ha et al. 2017, equation 2, one input channel at a time: `[N_out, N_in, f, f]`."""
    g = learner.generate
    n_in, n_out, f = g.inputs, g.outputs, g.kernel
    w_in, b_in = g.inner.weight.view(n_in, -1, len(z)), g.inner.bias.view(n_in, -1)
    k = [(g.outer.weight @ (w_in[i] @ z + b_in[i]) + g.outer.bias).view(f, n_out, f) for i in range(n_in)]
    return torch.stack([k_i.permute(1, 0, 2) for k_i in k], dim=1) / math.sqrt(n_in * f * f)


def plain_hypernetwork(learner: HyperNetwork, episodes: Episodes, t: int) -> Callable[[Tensor], Tensor]:
    """The target network of task t."""
    spec, features = learner.spec, embedding(learner, episodes, t)
    seen, by_class = real_examples(episodes.support, t), learner.spec.target.n_classes is not None
    codes = [learner.encoder(features(x) if by_class else torch.cat([features(x), y])) for x, y in seen]
    width = learner.encoder[-1].out_features
    code = torch.cat([mean(codes, width), *described(episodes, t)])
    if by_class:
        rows = []
        for c in range(spec.target.size):
            own = [r for r, (_, y) in zip(codes, seen, strict=True) if y == c]
            rows.append(learner.head(torch.cat([mean(own, width), code])))
        head = torch.stack(rows)
    else:
        head = learner.head(code[None, None]).view(learner.n_params, -1)
    head = head / math.sqrt(head.shape[1] - 1)
    kernels = []
    if learner.layers:
        size = learner.embeddings.out_features // learner.layers
        kernels = [plain_kernel(learner, z) for z in learner.embeddings(code).split(size)]

    def after(h: Tensor) -> Tensor:
        h = torch.relu((h - h.mean()) / (h.var(unbiased=False) + 1e-5).sqrt())
        return F.max_pool2d(h, 2) if learner.is_image else h

    def target(x: Tensor) -> Tensor:
        if learner.layers:
            h = after(learner.first(pixels(x)[None]))
            for kernel in kernels:
                h = after(F.conv2d(h, kernel, padding="same"))
            h = h.flatten()
        else:
            h = features(x)
        return head[:, :-1] @ h + head[:, -1]

    return target


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, REALS, DESCRIBED_REALS, BINARY, IMAGES], ids=str)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_a_hypernetwork_is_its_plain_transcription(layers: int, spec: TaskSpec) -> None:
    learner, episodes = build(partial(HyperNetwork, layers=layers, channels=5, embedding=3), spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        target = plain_hypernetwork(learner, episodes, t)
        wanted = torch.stack([target(x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [kind for kind, spec in SPECS.items() if isinstance(spec.target, HyperNetwork.targets)]
)
@pytest.mark.parametrize("layers", [0, 2])
def test_a_hypernetwork_of_any_depth_conforms(layers: int, kind: str) -> None:
    for name, check in CHECKS.items():
        if name != "check_it_learns_a_small_family_of_tasks":
            check(partial(HyperNetwork, layers=layers), SPECS[kind])


@pytest.mark.parametrize("layers", [0, 1])
def test_renaming_classes_renames_a_hypernetworks_predictions_and_does_nothing_else(layers: int) -> None:
    learner, episodes = build(partial(HyperNetwork, layers=layers), DESCRIBED).double(), in_double(ragged(DESCRIBED))
    here, s = outputs(learner, episodes), episodes.support
    new_name = torch.tensor([2, 0, 1])
    there = outputs(learner, episodes, Examples(x=s.x, y=new_name[s.y], mask=s.mask))
    torch.testing.assert_close(there[..., new_name], here, rtol=1e-12, atol=1e-12)


def test_all_of_a_target_network_is_generated_but_its_first_layer() -> None:
    """Two tasks whose supports differ have other kernels and another head."""
    learner, episodes = build(HyperNetwork, IMAGES), make_episodes(IMAGES)
    phi = learner.adapt(episodes.support)
    assert set(phi) == {"weight.0", "head", "classes"}
    assert phi["weight.0"].shape == (3, 16, 16, 3, 3)
    for part in (phi["head"], phi["weight.0"]):
        assert (part[0] - part[1]).abs().max() > 1e-3


# -------------------------------------------------------------- HyperTransformer


def plain_layer(layer: torch.nn.TransformerEncoderLayer, tokens: Tensor) -> Tensor:
    """Attention of every token to every token, head by head, then the feed-forward part; each after a norm."""
    attention, heads = layer.self_attn, layer.self_attn.num_heads
    q, k, v = (layer.norm1(tokens) @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=-1)
    seen = []
    for q_h, k_h, v_h in zip(*(part.chunk(heads, dim=-1) for part in (q, k, v)), strict=True):
        seen.append((q_h @ k_h.T / math.sqrt(q_h.shape[-1])).softmax(-1) @ v_h)
    tokens = tokens + attention.out_proj(torch.cat(seen, dim=-1))
    return tokens + layer.linear2(torch.relu(layer.linear1(layer.norm2(tokens))))


def plain_weights(generate: WeightGenerator, features: list[Tensor], ys: list[int], z: list[Tensor]) -> Tensor:
    """Tokens one by one: `[slices, block]`."""
    embedding = generate.weights.shape[1]
    tokens = []
    for place in generate.weights:
        tokens.append(place + (generate.describe(z[0]) if z else 0))
    for f, y in zip(features, ys, strict=True):
        tokens.append(torch.cat([generate.labels[y], f]))
    padded = torch.stack([torch.cat([token, torch.zeros(generate.width - len(token))]) for token in tokens])
    for layer in generate.layers:
        padded = plain_layer(layer, padded)
    written = generate.norm(padded[: len(generate.weights)])
    return written[:, embedding : embedding + generate.block] / math.sqrt(generate.block)


def plain_hypertransformer(learner: HyperTransformer, episodes: Episodes, t: int) -> Callable[[Tensor], Tensor]:
    """The generated network of task t: each layer from the support under the layers before it."""
    seen, z = real_examples(episodes.support, t), described(episodes, t)
    ys = [int(y) for _, y in seen]
    shared = [learner.shared(embedding(learner, episodes, t)(x)) for x, _ in seen]
    maps = [pixels(x)[None] for x, _ in seen]
    kernels: list[Tensor] = []

    def layer(i: int, x: Tensor) -> Tensor:
        norm = learner.norms[i].norm
        x = F.conv2d(x, kernels[i], padding="same")
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.max_pool2d(torch.relu(x), 2) if learner.is_image else torch.relu(x)

    for i, (local, generate) in enumerate(zip(learner.locals, learner.generators, strict=True)):
        features = [torch.cat([local(x).mean((0, 2, 3)), g]) for x, g in zip(maps, shared, strict=True)]
        weights = plain_weights(generate, features, ys, z)
        if i < len(learner.norms):
            side = 3 if learner.is_image else 1
            kernels.append(weights.view(len(weights), -1, side, side))
            maps = [layer(i, x) for x in maps]

    def network(x: Tensor) -> Tensor:
        x = pixels(x)[None]
        for i in range(len(kernels)):
            x = layer(i, x)
        return weights[:, :-1] @ x.flatten() + weights[:, -1]

    return network


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED, IMAGES], ids=str)
def test_a_hypertransformer_is_its_plain_transcription(spec: TaskSpec) -> None:
    learner, episodes = build(partial(HyperTransformer, **SMALL), spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        network = plain_hypertransformer(learner, episodes, t)
        wanted = torch.stack([network(x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-4)


def test_a_hypertransformers_sizes_are_those_of_the_authors_omniglot_script() -> None:
    """8 channels, 20 labels, embeddings of 32, features of 8 and 32: tokens of 32 + max(8 + 32, 8 * 9) = 104."""
    learner = HyperTransformer(TaskSpec((1, 28, 28), Classes(20)))
    assert learner.shapes == [(8, 1, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (20, 9)]
    assert [generate.width for generate in learner.generators] == [72, 104, 104, 104, 72]


@pytest.mark.parametrize("kind", ["classes of vectors", "classes of images"])
@pytest.mark.parametrize("norm", sorted(set(NORMS) - {"none", "batch"}))
def test_a_hypertransformer_conforms_whatever_normalises_its_network(norm: str, kind: str) -> None:
    make = partial(HyperTransformer, **SMALL, norm=norm)
    for name in ("padding_changes_nothing", "tasks_do_not_see_each_other", "queries_do_not_see_each_other",
                 "an_empty_support_gives_finite_predictions", "saving_and_loading_gives_the_same_bits"):  # fmt: skip
        CHECKS[f"check_{name}"](make, SPECS[kind])
    assert build(make, SPECS[kind]).transductive == (norm == "transductive")


def test_in_training_an_empty_support_leaves_the_statistics_of_the_network_alone() -> None:
    learner = HyperTransformer(CLASSES, **SMALL).train()
    before = [norm.norm.running_mean.clone() for norm in learner.norms]
    learner.adapt(make_episodes(CLASSES, n_support=0).support)
    assert all(torch.equal(norm.norm.running_mean, old) for norm, old in zip(learner.norms, before, strict=True))


@pytest.mark.parametrize("make", [HyperNetwork, partial(HyperTransformer, layers=3)])
def test_a_descriptor_alone_makes_a_network(make: Callable[..., Learner]) -> None:
    learner, episodes = build(make, DESCRIBED), make_episodes(DESCRIBED, n_support=0)
    other = replace(episodes, descriptor=episodes.descriptor + 1)
    assert (outputs(learner, other) - outputs(learner, episodes)).abs().max() > 1e-3


@pytest.mark.parametrize("make", [partial(HyperNetwork, layers=4), partial(HyperTransformer, layers=5)])
def test_images_that_are_too_small_are_refused(make: Callable[..., Learner]) -> None:
    with pytest.raises(ValueError, match="expected images that 5 poolings leave something of"):
        make(IMAGES)


@pytest.mark.parametrize("make", [HyperNetwork, HyperTransformer])
def test_a_network_works_in_double_precision(make: type[Learner]) -> None:
    for n_support in (0, 6):
        learner, episodes = build(make, CLASSES).double(), in_double(make_episodes(CLASSES, n_support=n_support))
        assert outputs(learner, episodes).dtype == torch.double


@pytest.mark.parametrize("kind", ["classes of vectors", "classes of images"])
def test_a_hypertransformer_answers_the_same_where_torch_takes_its_path_for_inference(kind: str) -> None:
    learner, episodes = build(HyperTransformer, SPECS[kind]), make_episodes(SPECS[kind])
    mask = torch.arange(6) != 2
    support = replace(episodes.support, mask=mask.expand(3, -1))
    wanted = outputs(learner, episodes, support).detach()
    with torch.inference_mode():
        torch.testing.assert_close(outputs(learner, episodes, support), wanted, rtol=1e-4, atol=1e-4)
