"""Descriptors z_i: what a learner is told about a task. Each kind turns K tasks into K vectors, `[K, dz]` float32.

A learned task embedding needs no descriptor of its own: it is a linear layer on `OneHot`, whose weight has one column
for each task, so a conditioner that begins with a linear layer (`Add`, `Gate`, `FiLM`) learns one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox.checks import check_fields
from metabox.config import Configured
from metabox.ranges import Count

Value = bool | float | str
Encoder = Callable[[str], Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class About:
    """What is known about one task, for a descriptor to choose from.

    name: its name
    features: metadata, the same numbers for every task (age and years as a customer, say)
    text: a description in words
    specification: what the task is, by field: a truth value, a number, or one of a few words
    """

    name: str
    features: Sequence[Any] = ()
    text: str = ""
    specification: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)


class Descriptor(Configured, ABC):
    """What a learner is told about the tasks."""

    @abstractmethod
    def vectors(self, tasks: Sequence[About]) -> Tensor:
        """z_i of each task, `[K, dz]` float32.

        Raises:
            ValueError: if what it needs is not known for every task, naming those tasks.
        """

    def index_size(self, n_tasks: int) -> int:
        """How many first columns are the index of a task, one-hot: K or 0."""
        return 0

    def beyond_index(self, tasks: Sequence[About]) -> Tensor:
        """z_i without the index, `[K, dz - index_size]`: what `Rows` keeps, so that no table is K x K."""
        return self.vectors(tasks)[:, self.index_size(len(tasks)) :]


class OneHot(Descriptor):
    """The index of a task: `[K, K]`. It says nothing about a task that was not trained."""

    def vectors(self, tasks: Sequence[About]) -> Tensor:
        return torch.eye(len(tasks))

    def index_size(self, n_tasks: int) -> int:
        return n_tasks

    def beyond_index(self, tasks: Sequence[About]) -> Tensor:
        return torch.zeros(len(tasks), 0)


class Metadata(Descriptor):
    """The features of a task, such as those of a user.

    Args:
        standardise: shift and scale each feature to mean 0 and variance 1 over the tasks.
    """

    def __init__(self, standardise: bool = True) -> None:
        self.standardise = standardise

    def vectors(self, tasks: Sequence[About]) -> Tensor:
        size = len(tasks[0].features)
        odd = [task.name for task in tasks if len(task.features) != size or not np.isfinite(task.features).all()]
        if odd or not size:
            raise ValueError(
                f"expected the same number of finite features, at least 1, of every task, got {size} of "
                f"{tasks[0].name} and others of {', '.join(odd) or 'none'}; give features to About"
            )
        features = np.array([task.features for task in tasks], dtype=np.float64)
        if self.standardise:
            scale = features.std(0)
            features = (features - features.mean(0)) / np.where(scale > 0, scale, 1)
        return torch.from_numpy(features.astype(np.float32))


class Text(Descriptor):
    """The description of a task in words, as a vector.

    Args:
        encoder: maps a text to a vector, of the same length for all texts; by default `NGrams()`. Any function will do,
            such as the method `encode` of a sentence encoder.
    """

    def __init__(self, encoder: Encoder | None = None) -> None:
        self.encoder = encoder or NGrams()

    def vectors(self, tasks: Sequence[About]) -> Tensor:
        if silent := [task.name for task in tasks if not task.text.strip()]:
            raise ValueError(f"expected a text about every task, got none about {', '.join(silent)}")
        encoded = [np.asarray(self.encoder(task.text), dtype=np.float32) for task in tasks]
        shapes = {vector.shape for vector in encoded}
        if len(shapes) > 1 or encoded[0].ndim != 1:
            raise ValueError(f"expected an encoder to vectors of one length, got shapes {sorted(shapes)}")
        return torch.from_numpy(np.stack(encoded))


class Specification(Descriptor):
    """The formal specification of a task as a vector, field by field in the order of the fields' names.

    A number is kept, a truth value is 0 or 1, and a word is one-hot among the sorted words of its field.
    """

    def vectors(self, tasks: Sequence[About]) -> Tensor:
        fields = sorted(tasks[0].specification)
        if odd := [task.name for task in tasks if sorted(task.specification) != fields or not fields]:
            raise ValueError(f"expected every task specified in the fields {fields}, at least one, got {odd} otherwise")
        columns = [self._columns(name, [task.specification[name] for task in tasks]) for name in fields]
        return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))

    def _columns(self, name: str, values: Sequence[Value]) -> np.ndarray:
        words = sorted({value for value in values if isinstance(value, str)})
        if not words:
            return np.array(values, dtype=np.float64)[:, None]
        if numbers := [value for value in values if not isinstance(value, str)]:
            raise ValueError(f"expected words or numbers in the field {name}, got both: {words} and {numbers}")
        return np.array([[value == word for word in words] for value in values], dtype=np.float64)


class Beside(Descriptor):
    """Several descriptors side by side.

    Args:
        parts: the descriptors; `OneHot` must be the first, since the index of a task comes first in its descriptor.

    Raises:
        ValueError: if there are none, or if `OneHot` is not the first.
    """

    def __init__(self, parts: list[Descriptor]) -> None:
        if not parts or any(isinstance(part, OneHot) for part in parts[1:]):
            kinds = [type(part).__name__ for part in parts]
            raise ValueError(f"expected one or more descriptors, OneHot first, got {kinds}; reorder them")
        self.parts = parts

    def vectors(self, tasks: Sequence[About]) -> Tensor:
        return torch.cat([part.vectors(tasks) for part in self.parts], dim=1)

    def index_size(self, n_tasks: int) -> int:
        return self.parts[0].index_size(n_tasks)

    def beyond_index(self, tasks: Sequence[About]) -> Tensor:
        return torch.cat([part.beyond_index(tasks) for part in self.parts], dim=1)


class NGrams(Configured):
    """A text as its hashed character n-grams, a vector of norm 1: texts that share words or stems have similar vectors.

    Each n-gram of the text in lower case, with one space between words and at both ends, adds +1 or -1 to one of
    `size` places. Place and sign are bits of its hash, so that n-grams that collide cancel as often as they add up, and
    inner products of vectors are right on average (Weinberger et al. 2009, "Feature hashing for large scale multitask
    learning", equation 2).

    Args:
        size: length of the vectors.
        lengths: the values of n.
    """

    def __init__(self, size: Count = 256, lengths: tuple[Count, ...] = (3, 4, 5)) -> None:
        if not lengths:
            raise ValueError("expected lengths of one number at least, got none; (3, 4, 5) is usual")
        self.size, self.lengths = size, lengths

    def __call__(self, text: str) -> Sequence[float]:
        padded = f" {' '.join(text.lower().split())} "
        grams = (padded[i : i + n] for n in self.lengths for i in range(len(padded) - n + 1))
        vector = np.zeros(self.size)
        for gram, count in Counter(grams).items():
            place, sign = hash_token(gram, self.size)
            vector[place] += sign * count
        norm = np.sqrt((vector * vector).sum())
        return [float(value) for value in vector / (norm or 1)]


def hash_token(token: str, size: int) -> tuple[int, int]:
    """One of `size` places and a sign, the same in every process and on every machine."""
    word = int.from_bytes(blake2b(token.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
    return (word >> 1) % size, 1 if word & 1 else -1


def hashed_counts(tokens: Iterable[str], size: int) -> np.ndarray:
    """How many of the tokens fall into each of `size` places: `[size]` float32."""
    counts = np.zeros(size, dtype=np.float32)
    for token, count in Counter(tokens).items():
        counts[hash_token(token, size)[0]] += count
    return counts
