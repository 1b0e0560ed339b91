"""Exported graphs answer as their learner does, in a process that has no metabox."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metabox.episodes import Episodes, Examples
from metabox.export import export, load_exported
from metabox.learners import ANP, CNP, LSTM, MAML, SNAIL, VERSA, InContext, ProtoNet
from metabox.learners.base import Learner
from metabox.testing import SPECS, build, make_episodes, outputs


def padded(support: Examples, n: int) -> Examples:
    """With junk behind it, to n examples."""
    more = n - support.x.shape[1]
    return Examples(
        x=torch.cat([support.x, support.x[:, :more]], 1),
        y=torch.cat([support.y, support.y[:, :more]], 1),
        mask=torch.nn.functional.pad(support.mask, (0, more)),
    )


CASES = [(make, kind) for make in (CNP, InContext, SNAIL) for kind in ("classes of images", "reals with a descriptor")]
CASES += [(make, "classes of vectors") for make in (ANP, LSTM, ProtoNet, VERSA)]


@pytest.mark.parametrize(("make", "kind"), CASES, ids=[f"{make.__name__}-{kind}" for make, kind in CASES])
def test_the_exported_graphs_give_the_same_predictions_for_any_number_of_queries(
    tmp_path: Path, make: type[Learner], kind: str
) -> None:
    learner, episodes = build(make, SPECS[kind]), make_episodes(SPECS[kind])
    export(learner, episodes, tmp_path)
    served = load_exported(tmp_path, trusted=True)
    for n_support, n_query in ((6, 1), (6, 11), (4, 5)):
        other = make_episodes(SPECS[kind], n_support=n_support, n_query=n_query, seed=1)
        s, given = padded(other.support, 6), (other.label_set(SPECS[kind]), other.descriptor)
        got = served.predict(
            served.adapt(s.x, s.y, s.mask, *(part for part in given if part is not None)), other.query.x
        )
        torch.testing.assert_close(got, outputs(learner, other), rtol=1e-4, atol=1e-5)
        if kind.startswith("classes of"):
            two_of_three = torch.tensor([True, False, True]).expand(len(s), -1)
            phi = served.adapt(s.x, s.y.masked_fill(s.y == 1, 2), s.mask, two_of_three)
            assert (served.predict(phi, other.query.x).softmax(-1)[..., 1] == 0).all()


def test_the_files_are_served_where_there_is_no_metabox(tmp_path: Path) -> None:
    learner, episodes = build(CNP, SPECS["reals"]), make_episodes(SPECS["reals"], n_query=1)
    export(learner, episodes, tmp_path)
    torch.save([episodes.support.x, episodes.support.y, episodes.support.mask, episodes.query.x], tmp_path / "inputs")
    script = (
        "import sys, torch; sys.modules['metabox'] = None\n"
        "*support, x = torch.load('inputs', weights_only=True)\n"
        "adapt, predict = (torch.export.load(name).module() for name in ('adapt.pt2', 'predict.pt2'))\n"
        "torch.save(predict(adapt(*support), x.repeat(1, 3, 1)), 'outputs')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True)
    got = torch.load(tmp_path / "outputs", weights_only=True)
    torch.testing.assert_close(got, outputs(learner, episodes).repeat(1, 3, 1), rtol=1e-4, atol=1e-5)


def test_a_learner_that_no_graph_can_hold_is_named(tmp_path: Path) -> None:
    pytest.importorskip("learn2learn")
    episodes = make_episodes(SPECS["classes of vectors"])
    with pytest.raises(ValueError, match="expected a learner whose adapt and predict are fixed graphs, got MAML"):
        export(build(MAML, SPECS["classes of vectors"]), episodes, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_learner_in_training_and_a_folder_without_graphs_are_refused(tmp_path: Path) -> None:
    episodes: Episodes = replace(make_episodes(SPECS["reals"]), descriptor=None)
    with pytest.raises(ValueError, match=r"expected a learner in evaluation mode, .* learner.eval\(\)"):
        export(build(CNP, SPECS["reals"]).train(), episodes, tmp_path)
    with pytest.raises(ValueError, match=r"expected adapt\.pt2 and predict\.pt2"):
        load_exported(tmp_path, trusted=True)


class Calls:
    """Pickled as a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("trusted", [False, None, 1, "yes"])
def test_a_file_that_could_run_code_is_not_opened_unless_it_is_trusted(tmp_path: Path, trusted: object) -> None:
    for name in ("adapt.pt2", "predict.pt2"):
        torch.save(Calls(tmp_path / "ran"), tmp_path / name)
    with pytest.raises(ValueError, match=r"expected trusted(=True .* can run any code| as True or False)"):
        load_exported(tmp_path, trusted=trusted)  # type: ignore[arg-type]
    assert not (tmp_path / "ran").exists()
