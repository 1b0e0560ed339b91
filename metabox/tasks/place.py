"""The position of a batch in the endless list of tasks."""

from __future__ import annotations

from dataclasses import dataclass, field

from metabox.checks import check_fields
from metabox.episodes import Split
from metabox.ranges import Count, Natural, Whole
from metabox.seeding import WORD, Draws


@dataclass(frozen=True)
class Place:
    """The tasks `first ... first + n_tasks - 1` of the endless list at (seed, split, index).

    An outer loop has its step as `index` and `rank * n_tasks` as `first`, so that processes share one list and never
    overlap; an evaluation stays at index 0 and advances `first`.

    Args:
        n_tasks: how many tasks.
        split: which classes or rows: "train", "val" or "test".
        index: which list of the split: the training step, say.
        first: number of the first task in the list.
        seed: another seed gives other lists.

    Raises:
        ValueError: if the split is none of these, or if the others are not whole numbers: at least 1 for n_tasks, at
            least 0 for index and first.
    """

    n_tasks: Count
    split: Split = "train"
    index: Natural = field(default=0, kw_only=True)
    first: Natural = field(default=0, kw_only=True)
    seed: Whole = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_fields(self)
        if (last := self.first + self.n_tasks - 1) > WORD:
            raise ValueError(f"expected task numbers of at most {WORD}, got {last}; use a new `index`")

    def draws(self, *address: object, n_indices: int = 1) -> Draws:
        """The random numbers of the tasks at this place, one independent stream for each address.

        Args:
            *address: who draws, and what for.
            n_indices: how many indices to draw for, one after the other on axis 0.
        """
        indices = range(self.index, self.index + n_indices)
        return Draws.block(*address, self.seed, self.split, indices=indices, n_tasks=self.n_tasks, first=self.first)
