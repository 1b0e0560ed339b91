"""The benchmark of precisions: the rule is judged by what was measured."""

from __future__ import annotations

import importlib

import pytest
import torch


def test_the_rule_is_right_if_its_choice_was_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = importlib.import_module("precision")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    found = {}
    for name in ("GP CNP 32", "GP CNP 512", "GP ConvCNP"):
        of, more = benchmark.MEASURED[name]
        _, recipe, options = benchmark.RECIPES[of]
        learner = benchmark.learner_of(recipe, [*options, *more])
        slower, as_fast = benchmark.judged(learner, 0.9), benchmark.judged(learner, 1.1)
        assert slower["choice_is_faster"] != as_fast["choice_is_faster"]
        found[name] = (as_fast["width"], as_fast["convolutions"], as_fast["choice_is_faster"])
    assert found["GP CNP 32"] == (32, False, False)
    assert found["GP CNP 512"] == (512, False, True)
    assert found["GP ConvCNP"][1:] == (True, True)
