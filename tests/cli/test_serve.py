"""`metabox serve` tells where it listens, warns if others can reach it, and refuses what it cannot serve."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from metabox.cli.main import main
from metabox.learners import ProtoNet
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.targets import Classes, TaskSpec


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: self.config.app._app)
    spec = TaskSpec((1, 8, 8), Classes(3))
    return str(Model(ProtoNet(spec, backbone=Flatten), name="shapes").save(tmp_path / "m.metabox"))


def test_the_address_is_printed_and_loopback_asks_for_no_warning(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", path, "--port", "0"]) == 0
    printed = capsys.readouterr()
    assert re.fullmatch(r"shapes: http://127\.0\.0\.1:\d+/ \(Ctrl\+C stops it\)\n", printed.out)
    assert not printed.err
    assert main(["serve", path, "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "warning: 0.0.0.0 may be reached by other machines" in capsys.readouterr().err


def test_an_interrupt_is_how_it_ends(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("uvicorn.Server.run", interrupted)
    assert main(["serve", path, "--port", "0"]) == 0
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected MODEL_OR_RUN"),
        (["none"], "expected a model's name"),
        (["PATH", "--port", "x"], "as a whole number"),
    ],
)
def test_what_cannot_be_served_is_refused(
    path: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *(path if word == "PATH" else word for word in arguments)]) == 2
    assert says in capsys.readouterr().err
