"""The exam of told, shown and both: who is told wrongly, and what is said of the wanted numbers."""

from __future__ import annotations

import importlib

import pytest
import torch

from metabox.tasks.multitask.spam import MadeMail
from metabox.tasks.place import Place


@pytest.mark.parametrize("batch", [5, 6])
def test_each_task_is_told_wrongly_in_one_of_ten_rounds_and_then_as_another(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, tasks = importlib.import_module("inferred"), MadeMail(n_users=6, n_train=4, n_eval=4, n_query=1)
    right = torch.cat([tasks.sample(Place(batch, "test", first=f)).task for f in range(0, 60, batch)])
    told = [script.WronglyTold(tasks).sample(Place(batch, "test", first=f)).descriptor for f in range(0, 60, batch)]
    z = torch.cat(told)
    assert ((z == 0) | (z == 1)).all()
    assert (z.sum(1) == 1).all()
    wrong = z.argmax(1) != right
    assert right[wrong].bincount(minlength=6).tolist() == [1] * 6
    assert set(z.argmax(1)[wrong].tolist()) != {0}


def test_a_wanted_number_is_printed_as_reached_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    script = importlib.import_module("inferred")
    percents = dict.fromkeys(script.EXAMS, 80.0) | {"told": 83.0, "shown 5": 81.6, "shown 1": 67.9}
    percents |= {"told, a tenth wrongly": 75.0}
    lines = {line["given"]: line for line in script.summary({"0": percents, "1": percents}, "alphabets")}
    reached = {name: line["reached"] for name, line in lines.items() if "reached" in line}
    assert reached == {
        "told": True,
        "shown 5": True,
        "shown 1": False,
        "told and shown 5": False,
        "told and shown 20": False,
        "told, a tenth wrongly, and shown 20": True,
    }
    assert lines["shown 5"]["wanted"] == "at least -1.5 to told"
    assert lines["shown 1"]["above_told"] == -15.1
