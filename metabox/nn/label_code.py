"""Label encodings of a recurrent learner: one-hot, or strings of five characters."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metabox.checks import checked
from metabox.episodes import Examples
from metabox.nn.sets import one_hot
from metabox.targets import Classes, TaskSpec

LabelKind = Literal["one-hot", "strings", "same-step"]

CHARACTERS = 5  # 'a' to 'e'
LENGTH = 5  # characters of a string


def strings(n: int) -> Tensor:
    """The strings of the ids 0 ... n - 1, one-hot per character: bool `[n, LENGTH * CHARACTERS]`.

    The characters are the digits of the id in base 5, the most significant first: 0 is 'aaaaa', 6 is 'aaabb'.
    """
    power = CHARACTERS ** torch.arange(LENGTH - 1, -1, -1)
    digits = torch.arange(n)[:, None] // power % CHARACTERS
    return one_hot(digits, CHARACTERS).flatten(1)


class LabelCode(nn.Module):
    """Encode labels as network input, and decode a network's scores to natural parameters.

    "one-hot": a class is a one-hot vector, and the scores are its logits. Real and binary targets are unchanged.

    "strings" (Santoro et al. 2016, section 4.1): a class is a string of five characters out of five, read as five
    one-hot vectors. The scores are five softmaxes, so that p(string) is the product of p(character):
    logit[c] = sum_k log softmax(scores_k)[character k of c]. The strings are those of the ids 0 to 3,124.

    "same-step": encoded as "one-hot", and read by a recurrent learner in the step of their inputs instead of the next.
    Targets that are not classes get a 1 behind, to tell a label of zeros from a query.

    Args:
        spec: the tasks.
        kind: "one-hot", "strings" or "same-step".

    Raises:
        ValueError: if kind is "strings" and targets are not classes, or are more than 3,125 classes.
    """

    table: Tensor  # [C, 25], the string of each class

    @checked
    def __init__(self, spec: TaskSpec, kind: LabelKind = "one-hot") -> None:
        super().__init__()
        if kind == "strings" and (not isinstance(spec.target, Classes) or spec.target.size > CHARACTERS**LENGTH):
            raise ValueError(
                f'expected at most {CHARACTERS**LENGTH} classes for labels "strings", got {spec}; use "one-hot"'
            )
        self.spec, self.kind = spec, kind
        self.marks = kind == "same-step" and spec.target.n_classes is None
        self.in_size, self.out_size = spec.target.label_size + self.marks, spec.target.n_params
        if kind == "strings":
            self.in_size = self.out_size = CHARACTERS * LENGTH
            self.register_buffer("table", strings(spec.target.size), persistent=False)

    def encode(self, examples: Examples) -> Tensor:
        """`[T, N, in_size]`, zeros for padding."""
        if self.kind != "strings":
            labels = self.spec.target.encode(examples.y, examples.mask)
            return torch.cat([labels, examples.mask[..., None].to(labels.dtype)], dim=-1) if self.marks else labels
        known = self.table[examples.y.masked_fill(~examples.mask, 0)]
        return (known & examples.mask[..., None]).float()

    def decode(self, scores: Tensor) -> Tensor:
        """Scores `[..., out_size]` to natural parameters `[..., n_params]`."""
        if self.kind != "strings":
            return scores
        with torch.autocast(scores.device.type, enabled=False):
            log_p: Tensor = scores.float().unflatten(-1, (LENGTH, CHARACTERS)).log_softmax(-1)
            return log_p.flatten(-2) @ self.table.float().T

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"
