"""Synthetic mail of users with different interests and opinions, so that the best possible filter is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
import torch

from metabox.arrays import Booleans, Floats, Integers
from metabox.checks import checked
from metabox.config import Unpack
from metabox.episodes import SPLITS, Device, Episodes
from metabox.ranges import Between, Count, CountOrRange, Share, TwoOrMore, Whole, Within, ends
from metabox.seeding import Draws
from metabox.targets import Classes, TaskSpec
from metabox.targets.base import task_mean
from metabox.tasks.descriptors import About, Descriptor, OneHot, hash_token
from metabox.tasks.named import FiniteOptions, FiniteTasks
from metabox.tasks.place import Place
from metabox.tasks.rows import Rows

Sure = Annotated[float, Within(least=0.5, most=1)]

TOPICS = (
    "sport", "music", "travel", "cooking", "games", "gardens", "fashion", "cars", "health", "loans", "jobs", "films",
)  # fmt: skip
N_WORDS = 1000
COMMON = 0.5  # share of words that say nothing about the topic


class Users:
    """Users as tasks: p_i(x) and p_i(y|x) differ between users, and both are known.

    A mail is about one of twelve topics r, drawn from the user's interests p_i(r). Its words are drawn from p(w|r), the
    same for all users. It is spam with the probability p_i(y|r), the user's opinion of the topic: `sure` or 1 - `sure`.
    All users share the opinion of the crowd, except on the topics on which they dissent.

    So the same mail is spam to one user and welcome to another, and no filter can tell which without being told the
    user or shown mail that the user has labelled.

    Args:
        n_users: how many.
        dissent: the share of topics on which a user's opinion differs from the crowd's.
        sure: the larger of the two probabilities of an opinion.
        seed: the seed of interests, opinions and words.

    Raises:
        ValueError: if an option is out of range.
    """

    @checked
    def __init__(self, n_users: Count, dissent: Share = 0.3, sure: Sure = 0.95, seed: Whole = 0) -> None:
        self.names = tuple(f"user-{i}" for i in range(n_users))
        crowd = Draws("crowd", seed, n_tasks=1)
        own = Draws("users", seed, n_tasks=n_users)
        n = len(TOPICS)
        self.words = (1 - COMMON) * _softmax(2 * crowd.normal("words", n, N_WORDS)[0])  # p(w|r), [R, W]
        self.words += COMMON * _softmax(2 * crowd.normal("common", 1, N_WORDS)[0])
        self.interests = _softmax(own.normal("interests", n))  # p_i(r), [K, R]
        against = crowd.integers("against", 0, 1, n)[0].astype(bool)
        self.against = against ^ (own.uniform("dissent", 0, 1, n) < dissent)
        self.opinions = np.where(self.against, sure, 1 - sure)  # p_i(y = 1|r), [K, R]

    def mail(self, n_mails: int, length: tuple[int, int], seed: int) -> tuple[Integers, Booleans, Integers]:
        """`n_mails` of each user: words `[K, n, W]`, the mask of words, and labels (1 is spam) `[K, n]`."""
        draws = Draws("mail", seed, n_tasks=len(self.names))
        user = np.arange(len(self.names))[:, None]
        topic = choose(self.interests, user, draws.uniform("topic", 0, 1, n_mails))
        spam = draws.uniform("spam", 0, 1, n_mails) < self.opinions[user, topic]
        words = choose(self.words, topic[..., None], draws.uniform("words", 0, 1, n_mails, length[1]))
        present = np.arange(length[1]) < draws.integers("length", *length, n_mails)[..., None]
        return words, present, spam.astype(np.int64)

    def spam_probability(self, counts: Floats, places: Integers, user: Integers) -> Floats:
        """p_i(y = 1|x), the best filter: counts of hashed words `[n, F]`, the place of each word `[W]`, users `[n]`.

        The topic given the words is p_i(r|x) ∝ p_i(r) Π p(place|r)^count, which is exact in spite of hashing: the
        probability of a place is that of all words in it. The length of a mail does not depend on its topic.
        """
        hashed = np.zeros((counts.shape[1], len(TOPICS)))
        np.add.at(hashed, places, self.words.T)
        log_topic = np.log(self.interests)[user] + counts @ np.log(np.where(hashed > 0, hashed, 1))
        topic = np.exp(log_topic - log_topic.max(1, keepdims=True))
        spam: Floats = (topic * self.opinions[user]).sum(1) / topic.sum(1)
        return spam

    def about(self) -> list[About]:
        """What descriptors can tell: interests are the metadata, opinions the text and the specification."""
        return [
            About(
                name=name,
                features=[float(p) for p in interests],
                text="spam: " + " ".join(t for t, no in zip(TOPICS, against, strict=True) if no)
                + ". wanted: " + " ".join(t for t, no in zip(TOPICS, against, strict=True) if not no),
                specification={t: bool(no) for t, no in zip(TOPICS, against, strict=True)},
            )
            for name, interests, against in zip(self.names, self.interests, self.against, strict=True)
        ]  # fmt: skip


class MadeMail(FiniteTasks):
    """Synthetic mail of synthetic users (see `Users`), as tasks of two classes: 0 is ham and 1 is spam.

    x is the hashed counts of words: log(1 + count) of each of `features` places. Users have different numbers of
    training mails, few or very few, and `n_eval` each for validation and test. The data are drawn once; the `oracle` of
    an episode is the mean log likelihood of its queries under p_i(y|x), with the user known.

    Args:
        n_users: K, the number of tasks.
        n_train: training mails of a user, or the range to draw their number from.
        n_eval: mails of a user for validation, and as many for test.
        dissent: the share of topics on which a user's opinion differs from the crowd's.
        sure: the probability that a mail is spam if the user does not want its topic.
        length: words of a mail, as a range.
        features: size of x.
        descriptor: what a learner is told about a user; by default the index, `OneHot`.
        data_seed: another seed gives other users with other mail. The seed of training does not change it.
        **kwargs: of `FiniteTasks`.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        n_users: Count = 40,
        n_train: CountOrRange = (10, 200),
        n_eval: Count = 100,
        dissent: Share = 0.3,
        sure: Sure = 0.95,
        length: Between[Count] = (10, 40),
        features: TwoOrMore = 256,
        descriptor: Descriptor | None = None,
        data_seed: Whole = 0,
        **kwargs: Unpack[FiniteOptions],
    ) -> None:
        least, most = ends(n_train)
        super().__init__(**kwargs)
        self._users = Users(n_users, dissent, sure, data_seed)
        self.n_users, self.dissent, self.sure = n_users, dissent, sure
        self.n_train, self.n_eval, self.length = (least, most), n_eval, length
        self.features, self.data_seed = features, data_seed
        self.descriptor = descriptor or OneHot()

    def load(self) -> Rows:
        (least, most), n_eval, users, features = self.n_train, self.n_eval, self._users, self.features
        words, present, y = users.mail(most + 2 * n_eval, self.length, self.data_seed)
        number = np.arange(words.shape[1])
        split = np.broadcast_to(np.searchsorted([most, most + n_eval], number, side="right"), y.shape)
        n_own = Draws("mailbox", self.data_seed, n_tasks=self.n_users).integers("size", least, most)
        kept = (number < n_own[:, None]) | (number >= most)
        user, places = np.nonzero(kept)[0], word_places(features)
        counts = count_words(words[kept], present[kept], places, features)
        p = users.spam_probability(counts, places, user)
        self._log_best = torch.from_numpy(np.log(np.where(y[kept] == 1, p, 1 - p)).astype(np.float32))
        told = self.descriptor.beyond_index(users.about())
        index = self.descriptor.index_size(len(told))
        return Rows(
            x=torch.from_numpy(np.log1p(counts).astype(np.float32)),
            y=torch.from_numpy(y[kept]),
            split=np.array(SPLITS)[split[kept]],
            spec=TaskSpec(
                (features,),
                Classes(2),
                index + told.shape[1],
                tasks=users.names,
                index_size=index,
            ),
            task=user,
            descriptors=told,
        )

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of users; see `EpisodeSampler.sample`."""
        # On the CPU first: another device rounds the sum differently.
        episodes = super().sample(place)
        assert episodes.origin is not None
        rows = episodes.origin[:, episodes.support.x.shape[1] :]
        best = self._log_best[rows.clamp(min=0)]
        return replace(episodes, oracle=task_mean(best, episodes.query.mask)).to(device)


def choose(p: Floats, row: Integers, u: Floats) -> Integers:
    """An index drawn from a row of `p [G, R]` for each uniform number u, `row` and u of the same shape or broadcast."""
    edges = np.cumsum(p, axis=1)
    edges = edges / edges[:, -1:] + np.arange(len(p))[:, None]
    chosen: Integers = np.searchsorted(edges.ravel(), u + row, side="right") - row * p.shape[1]
    return chosen


def word_places(features: int) -> Integers:
    """The place where each word is counted, `[W]`."""
    return np.array([hash_token(f"word-{i}", features)[0] for i in range(N_WORDS)])


def count_words(words: Integers, present: Booleans, places: Integers, features: int) -> Floats:
    """Hashed counts of the words of each mail: `[n, W]` -> `[n, features]`."""
    at = places[words] + features * np.arange(len(words))[:, None]
    return np.bincount(at[present], minlength=features * len(words)).reshape(len(words), features).astype(np.float64)


def _softmax(logits: Floats) -> Floats:
    p = np.exp(logits - logits.max(-1, keepdims=True))
    softmax: Floats = p / p.sum(-1, keepdims=True)
    return softmax
