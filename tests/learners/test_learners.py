"""Learners against plain transcriptions of their papers' equations: loops instead of batches, no cache, no padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from learner_cases import CLASSES, DESCRIBED, KINDS, embedding, mean, ragged, real_examples
from torch import Tensor, nn

from metabox.episodes import Episodes, Examples
from metabox.learners.base import Learner
from metabox.learners.cnp import CNP
from metabox.learners.incontext import InContext
from metabox.learners.lstm import LSTM
from metabox.learners.versa import VERSA
from metabox.targets import Classes, Reals, TaskSpec
from metabox.testing import build, make_episodes, outputs

# ------------------------------------------------------------------ the oracles


def plain_cnp(learner: CNP, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """Garnelo et al. 2018, equations 1 to 3: r_i = h(x_i, y_i), r = the mean of r_i, parameters = g(x, r)."""
    features, width = embedding(learner, episodes, t), learner.encoder[-1].out_features
    seen = real_examples(episodes.support, t)
    if learner.spec.target.n_classes is not None:
        codes = [(learner.encoder(features(x_i)), int(y_i)) for x_i, y_i in seen]
        r = mean([code for code, _ in codes], width)
        scores = []
        for c in range(learner.spec.target.size):
            r_c = mean([code for code, label in codes if label == c], width)
            scores.append(learner.decoder(torch.cat([features(x), r_c, r]))[0])
        return torch.stack(scores)
    r = mean([learner.encoder(torch.cat([features(x_i), y_i])) for x_i, y_i in seen], width)
    return learner.decoder(torch.cat([features(x), r]))


def plain_lstm(learner: LSTM, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """torch's own LSTM over the whole sequence, support then query, with inputs (x_t, y_{t-1}) and y_{-1} = 0."""
    spec = learner.spec
    lstm = nn.LSTM(learner.cell.input_size, learner.cell.hidden_size, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in learner.cell.state_dict().items()})
    seen = real_examples(episodes.support, t)
    labels = [F.one_hot(y, spec.target.size).float() if spec.target.n_classes is not None else y for _, y in seen]
    late, features = [torch.zeros(spec.target.size), *labels], embedding(learner, episodes, t)
    steps = [torch.cat([features(x_i), y]) for x_i, y in zip([x_i for x_i, _ in seen] + [x], late, strict=True)]
    return learner.readout(lstm(torch.stack(steps)[None])[0][0, -1])


def plain_guess(learner: InContext, tokens: list[Tensor], labels: list[int], query: Tensor) -> tuple[Tensor, Tensor]:
    """Logits: the log of the mean of exp(s * (cosine - 1)) over each class's support, -2 s where it has none.

    Probabilities: the softmax over the classes that have support, 0 for the others.
    """
    s = learner.labels.log_sharpness.exp()
    logits, seen = [], []
    for c in range(learner.spec.target.size):
        mine = [x for x, y in zip(tokens, labels, strict=True) if y == c]
        near = [torch.exp(s * (F.cosine_similarity(query, x, dim=0) - 1)) for x in mine]
        logits.append((sum(near) / len(near)).log() if near else -2 * s)
        seen.append(bool(near))
    probabilities = torch.zeros(len(logits))
    if any(seen):
        probabilities[seen] = torch.stack(logits)[seen].softmax(0)
    return torch.stack(logits), probabilities


def plain_transformer(learner: InContext, tokens: Tensor, n_support: int) -> Tensor:
    """Full attention over support and query tokens, layer by layer, with an explicit mask and nothing kept.

    A token sees the support, and a null key and value, but no query (itself included, if it is one).
    """
    n, width = tokens.shape
    visible = torch.tensor([[j < n_support for j in range(n)] + [True] for _ in range(n)])
    for block in learner.transformer.layers:
        heads, size = block.heads, width // block.heads
        q = block.query(block.norms[0](tokens))
        k, v = block.key_value(block.norms[0](tokens)).split(width, dim=-1)
        seen = []
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            keys = torch.cat([k[:, part], block.sink[0, h]])
            values = torch.cat([v[:, part], block.sink[1, h]])
            scores = (q[:, part] @ keys.T / math.sqrt(size)).masked_fill(~visible, -math.inf)
            seen.append(F.softmax(scores, dim=-1) @ values)
        tokens = tokens + block.out(torch.cat(seen, dim=-1))
        tokens = tokens + block.feed_forward(block.norms[1](tokens))
    return tokens


def plain_incontext(learner: InContext, episodes: Episodes, t: int, x: Tensor) -> Tensor:
    """The support's tokens and one query's, through the transformer above."""
    seen = real_examples(episodes.support, t)
    width = learner.null_label.shape[0]
    features = embedding(learner, episodes, t)
    embedded = [learner.embed_x(features(x_i)) for x_i, _ in seen]
    query = learner.embed_x(features(x))
    if learner.spec.target.n_classes is None:
        tokens = [e + learner.labels.embed_y(y) for e, (_, y) in zip(embedded, seen, strict=True)]
        tokens.append(query + learner.null_label)
        return learner.labels.readout(
            learner.transformer.norm(plain_transformer(learner, torch.stack(tokens), len(seen))[-1])
        )
    labels = [int(y) for _, y in seen]
    codes = []
    for c in range(learner.spec.target.size):
        code = learner.labels.embed_y(mean([e for e, label in zip(embedded, labels, strict=True) if label == c], width))
        codes.append((code - code.mean()) / (code.var(unbiased=False) + 1e-5).sqrt())
    guess, probabilities = plain_guess(learner, embedded, labels, query)
    guessed = sum((p * code for p, code in zip(probabilities, codes, strict=True)), torch.zeros(width))
    tokens = [e + codes[label] for e, label in zip(embedded, labels, strict=True)]
    tokens.append(query + guessed + learner.null_label)
    read = learner.labels.readout(
        learner.transformer.norm(plain_transformer(learner, torch.stack(tokens), len(seen))[-1])
    )
    return guess + torch.stack([read @ code for code in codes]) / math.sqrt(width)


PLAIN = {CNP: plain_cnp, LSTM: plain_lstm, InContext: plain_incontext}


@pytest.mark.parametrize("spec", KINDS, ids=str)
@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_a_learner_is_its_plain_transcription(make: type[Learner], spec: TaskSpec) -> None:
    learner, episodes = build(make, spec), ragged(spec)
    got = outputs(learner, episodes)
    for t in range(3):
        wanted = torch.stack([PLAIN[make](learner, episodes, t, x) for x in episodes.query.x[t]])
        torch.testing.assert_close(got[t], wanted, rtol=1e-4, atol=1e-5)


def test_the_first_guess_is_its_plain_transcription() -> None:
    learner, episodes = build(InContext, CLASSES), ragged(CLASSES)
    query = torch.randn(3, 4, 128)
    phi = learner.adapt(episodes.support)
    tokens, logits = learner.labels.query(query, phi)
    for t in range(3):
        seen = real_examples(episodes.support, t)
        embedded, labels = [learner.embed_x(learner.embed.backbone(x)) for x, _ in seen], [int(y) for _, y in seen]
        for m in range(4):
            guess, probabilities = plain_guess(learner, embedded, labels, query[t, m])
            torch.testing.assert_close(logits[t, m], guess, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                tokens[t, m], query[t, m] + probabilities @ phi["codes"][t], rtol=1e-4, atol=1e-5
            )


def test_lstm_streams_what_torchs_lstm_does_at_every_step() -> None:
    learner, sequence = build(LSTM, CLASSES), make_episodes(CLASSES).support
    lstm = nn.LSTM(learner.cell.input_size, learner.cell.hidden_size, batch_first=True)
    lstm.load_state_dict({f"{name}_l0": value for name, value in learner.cell.state_dict().items()})
    late = F.pad(F.one_hot(sequence.y, 3).float(), (0, 0, 1, 0))[:, :-1]
    wanted = learner.readout(lstm(torch.cat([learner.embed.backbone(sequence.x), late], -1))[0])
    torch.testing.assert_close(learner.stream(sequence), wanted, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------- what phi promises


@pytest.mark.parametrize("spec", [CLASSES, DESCRIBED], ids=str)
@pytest.mark.parametrize("make", [CNP, InContext], ids=lambda make: make.__name__)
def test_renaming_classes_renames_predictions_and_does_nothing_else(make: type[Learner], spec: TaskSpec) -> None:
    """In double precision, where the little that a label might mean by itself stands out from the rounding."""
    learner, episodes = build(make, spec).double(), ragged(spec)
    s, q = episodes.support, episodes.query.x.double()
    z = None if episodes.descriptor is None else episodes.descriptor.double()
    here = learner.predict(learner.adapt(Examples(x=s.x.double(), y=s.y, mask=s.mask), z), q)
    for new_name in torch.tensor([[2, 0, 1], [1, 0, 2], [2, 1, 0]]):
        there = learner.predict(learner.adapt(Examples(x=s.x.double(), y=new_name[s.y], mask=s.mask), z), q)
        close = 1e-12 if make is CNP else 1e-6  # InContext's first guess is in float32 in any case
        torch.testing.assert_close(there[..., new_name], here, rtol=close, atol=close)
        assert torch.equal(there.argmax(-1)[:2], new_name[here.argmax(-1)][:2])  # the third task has no support


@pytest.mark.parametrize(
    ("make", "sharpness"),
    [(CNP, None), (InContext, 10.0), (InContext, 1.0)],
)
def test_a_learner_built_for_more_classes_predicts_the_same_where_a_task_has_fewer(
    make: type[Learner], sharpness: float | None
) -> None:
    wide = replace(CLASSES, target=Classes(20))
    few, many = build(make, CLASSES), make(wide).eval()
    if sharpness is not None:
        few.labels.log_sharpness.data.fill_(math.log(sharpness))
    many.load_state_dict(few.state_dict())
    episodes = make_episodes(CLASSES)
    three = replace(episodes, classes=(torch.arange(20) < 3).expand(3, -1))
    wanted = CLASSES.target.log_probs(outputs(few, episodes))
    got = wide.target.log_probs(outputs(many, three))
    assert (got[..., 3:].exp() == 0).all()
    torch.testing.assert_close(got[..., :3], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_every_part_of_phi_has_the_tasks_in_front(make: type[Learner], spec: TaskSpec) -> None:
    for n_support in (0, 6):
        episodes = make_episodes(spec, n_support=n_support)
        phi = build(make, spec).adapt(episodes.support, episodes.descriptor)
        assert {len(part) for part in phi.values()} == {3}


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_training_reads_no_values_and_serving_does(make: type[Learner]) -> None:
    episodes = make_episodes(CLASSES)
    bad = Examples(x=episodes.support.x * math.nan, y=episodes.support.y)
    learner = build(make, CLASSES)
    with pytest.raises(ValueError, match="expected finite x"):
        learner.adapt(bad)
    phi = learner.adapt(episodes.support)
    with pytest.raises(ValueError, match="expected finite x"):
        learner.predict(phi, bad.x)
    learner.train().adapt(bad)


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_a_nan_that_is_masked_out_as_the_error_message_advises_changes_nothing(make: type[Learner]) -> None:
    learner, episodes = build(make, CLASSES), make_episodes(CLASSES)
    s = episodes.support
    mask = s.mask & (torch.arange(6) != 2)
    x = torch.where(mask[..., None], s.x, math.nan)
    wanted = outputs(learner, episodes, Examples(x=s.x, y=s.y, mask=mask))
    torch.testing.assert_close(outputs(learner, episodes, Examples(x=x, y=s.y, mask=mask)), wanted)


@pytest.mark.parametrize("make", PLAIN, ids=lambda make: make.__name__)
def test_an_empty_support_works_in_double_precision(make: type[Learner]) -> None:
    learner, episodes = build(make, CLASSES).double(), make_episodes(CLASSES)
    nothing = Examples(x=episodes.support.x[:, :0].double(), y=episodes.support.y[:, :0])
    assert learner.predict(learner.adapt(nothing), episodes.query.x.double()).isfinite().all()


def test_a_learner_refuses_what_it_cannot_be_built_for() -> None:
    with pytest.raises(ValueError, match="expected a target among Classes for VERSA, got Reals"):
        VERSA(TaskSpec((3,), Reals(1)))
    with pytest.raises(ValueError, match="expected heads as a divisor of the width, 128, got 3"):
        InContext(CLASSES, heads=3)
    learner, episodes = build(CNP, CLASSES), make_episodes(CLASSES)
    phi = learner.adapt(episodes.support)
    with pytest.raises(ValueError, match="expected x for the tasks that phi was made from, got 2 tasks"):
        learner.predict(phi, episodes.query.x[:2])
