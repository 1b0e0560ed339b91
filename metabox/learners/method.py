"""What a learner says about its own method, for its page in the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Steps = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Method:
    """The formulas of a learner, in LaTeX with the notation of docs/notation.json, of which its figure is made too.

    adapt: the steps from the support to phi, each a few words and its formula
    predict: the steps from phi and a query to the prediction, likewise; a formula that reads phi has `\\task` in it
    cost: how `adapt`, and `predict` for all M queries, grow with N, M and C, in LaTeX
    kin: the names of the learners that it is a change of, each with what is changed
    parallel: False if training steps through the support one example after another
    exports: False if `metabox.export_onnx` refuses it
    """

    adapt: Steps
    predict: Steps
    cost: tuple[str, str]
    kin: Mapping[str, str] = field(default_factory=dict)
    parallel: bool = True
    exports: bool = True
