"""The benchmark of a batch of a stream: the worker times each call, and a worker of another package is refused."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_a_call_is_timed_by_the_clock_and_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module("recurrent_worker").milliseconds("LSTM", bf16=False, calls=2)
    assert len(found) == 2
    assert all(by_clock > 0 and of_processor > 0 for by_clock, of_processor in found)


def test_a_folder_without_the_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a checkout with the package metabox in it"):
        importlib.import_module("recurrent").Worker(tmp_path)
