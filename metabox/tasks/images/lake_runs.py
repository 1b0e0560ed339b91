"""The 20 one-shot classification runs of Lake et al. 2015, on which people and BPL were measured."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox.data.decode import open_image
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import checked_entries, open_archive, read_entry
from metabox.data.root import data_root, how_to_name_a_root
from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count
from metabox.targets import Classes, TaskSpec
from metabox.tasks.images.omniglot import Omniglot
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler
from metabox.tensors import hash_of

RUNS, WAY = 20, 20
MOST_BYTES = 1 << 20  # of a drawing, or a list of answers


class LakeRuns(EpisodeSampler):
    """Lake's 20 runs: 20-way 1-shot tasks within an alphabet, the same for everybody.

    A run shows one drawing each of 20 characters of an evaluation alphabet by one person, and asks for 20 drawings by
    another, one of each character (Lake et al. 2015, "Human-level concept learning through probabilistic program
    induction", figure 5). 400 answers in all; people err in 4.5 % of them, BPL in 3.3 %. The runs are the test split:
    evaluate on them once, with `n_test` 20. Validation tasks are of the same kind, drawn at random from the five
    background alphabets that `Omniglot(split="lake")` keeps for validation. Drawings are treated as those of
    `Omniglot`.

    Args:
        image_size: side of the images in pixels.
        data_root: folder that holds `omniglot/all_runs.zip`, and for validation the drawings of `Omniglot`; by default
            METABOX_DATA.

    Raises:
        ValueError: if the training split or a 21st test task is asked for; at the first use, if the archive is not
            found or not the published one.
    """

    def __init__(self, image_size: Count = 28, data_root: str | None = None) -> None:
        self.image_size = image_size
        self.data_root = data_root

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # of this size
        return TaskSpec((1, self.image_size, self.image_size), Classes(WAY))

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(1, self.image_size, "box", inverted=True)

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        if place.split == "val":
            return self._background.sample(place, device)
        last = place.first + place.n_tasks
        if place.split != "test":
            raise ValueError(f'expected split "val" or "test" of LakeRuns, got {place.split!r}; train on Omniglot')
        if last > RUNS:
            raise ValueError(f"expected at most {RUNS} tasks, for there are no more runs, got {last}; set n_test to 20")
        (shown, asked), answers = self._drawings, self._answers
        runs = slice(place.first, last)
        classes = torch.arange(WAY).expand(place.n_tasks, -1)
        return Episodes(
            support=Examples(x=shown[runs].to(device), y=classes.to(device)),
            query=Examples(x=asked[runs].to(device), y=answers[runs].to(device)),
            classes=torch.ones(place.n_tasks, WAY, dtype=torch.bool, device=device),
        )

    def fingerprint(self) -> str:
        shown, asked = self._drawings
        return hash_of({"shown": shown, "asked": asked, "answers": self._answers}, {})

    @cached_property
    def _background(self) -> Omniglot:
        options: dict[str, Any] = {"n_way": WAY, "n_shot": 1, "n_query": 1, "within_groups": True}
        return Omniglot("lake", False, image_size=self.image_size, data_root=self.data_root, **options)

    @cached_property
    def _content(self) -> dict[str, bytes]:
        path = data_root(self.data_root) / "omniglot" / "all_runs.zip"
        if not path.is_file():
            raise ValueError(
                f"expected {path}, found no such file; get python/one_shot_classification/all_runs.zip from "
                f"github.com/brendenlake/omniglot, put it there, and {how_to_name_a_root()}"
            )
        with open_archive(path) as archive:
            names = {entry.filename for entry in checked_entries(archive, path)}
            wanted = [f"run{run:02}/{name}" for run in range(1, RUNS + 1) for name in _files()]
            if missing := sorted(set(wanted) - names):
                raise ValueError(f"expected the {RUNS} runs in {path}, got none of {missing[0]}; get the archive again")
            return {name: read_entry(archive, name, MOST_BYTES) for name in wanted}

    @cached_property
    def _drawings(self) -> tuple[Tensor, Tensor]:
        """The drawings that are shown and asked for: `[20, 20, 1, S, S]` each."""

        def pixels(kind: str) -> Tensor:
            names = [name for name in self._content if f"/{kind}/" in name]
            drawn = np.stack([self.preprocessing(open_image(self._content[name])) for name in names])
            return torch.from_numpy(drawn.reshape(RUNS, WAY, *drawn.shape[1:]))

        return pixels("training"), pixels("test")

    @cached_property
    def _answers(self) -> Tensor:
        """The class of each drawing that is asked for, `[20, 20]`."""
        answers = torch.full((RUNS, WAY), -1)
        for run in range(RUNS):
            words = self._content[f"run{run + 1:02}/class_labels.txt"].decode("ascii", "replace").split()
            pairs = [(_number(item), _number(name)) for item, name in zip(words[::2], words[1::2], strict=False)]
            if sorted(item for item, _ in pairs) != list(range(WAY)) or {name for _, name in pairs} - set(range(WAY)):
                raise ValueError(f"expected an answer for each of {WAY} drawings in run {run + 1}, got other lines")
            for item, name in pairs:
                answers[run, item] = name
        return answers


def _files() -> list[str]:
    numbers = [f"{i:02}.png" for i in range(1, WAY + 1)]
    return ["class_labels.txt", *(f"training/class{n}" for n in numbers), *(f"test/item{n}" for n in numbers)]


def _number(name: str) -> int:
    """7 from `run01/test/item08.png`; -1 from other names."""
    digits = name[-6:-4]
    return int(digits) - 1 if digits.isdecimal() else -1
