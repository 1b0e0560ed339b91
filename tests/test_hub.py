"""Models go to a repository of the hub, or a folder with its layout, and come back."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metabox.hub import from_pretrained, push_to_hub, save_pretrained
from metabox.learners import ProtoNet
from metabox.model import Model
from metabox.nn.backbones import Flatten
from metabox.targets import Classes, TaskSpec

hub = pytest.importorskip("huggingface_hub")
X = np.eye(4)


@pytest.fixture
def model() -> Model:
    learner = ProtoNet(TaskSpec((4,), Classes(3)), backbone=Flatten)
    return Model(learner, temperature=2.0, name="small", licence="mit", card="Measured nowhere.")


class Api:
    """A stand-in for the hub: its repositories are folders."""

    root: Path
    calls: list[dict[str, Any]]

    def __init__(self, token: str | None = None, library_name: str = "") -> None:
        self.token = token

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> None:
        if self.token == "wrong":
            raise hub.errors.HfHubHTTPError("401", response=_Response())
        type(self).calls.append({"name": name, "private": private, "exist_ok": exist_ok})
        (self.root / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"


class _Response:
    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 401
    request = None


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    Api.root, Api.calls = tmp_path / "hub", []

    def download(name: str, file: str, **_: Any) -> str:
        path = Api.root / name / file
        if not path.is_file():
            raise hub.errors.LocalEntryNotFoundError(f"no {file} of {name}")
        return str(path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return Api


def test_a_folder_holds_the_model_and_its_card(model: Model, tmp_path: Path) -> None:
    folder = save_pretrained(model, tmp_path / "small")
    loaded = from_pretrained(folder)
    assert torch.equal(loaded.predict(loaded.adapt(X, list("abca")), X), model.predict(model.adapt(X, list("abca")), X))
    text = (folder / "README.md").read_text()
    assert text.startswith('---\nlibrary_name: "metabox"\nlicense: "mit"\n')
    assert "Measured nowhere." in text
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.metabox"]


def test_a_model_is_pushed_and_comes_back(model: Model, stand_in: type[Api]) -> None:
    assert push_to_hub(model, "me/small", private=True) == "https://hub/me/small/commit/1"
    assert stand_in.calls == [{"name": "me/small", "private": True, "exist_ok": True}]
    assert from_pretrained("me/small").temperature == 2
    with pytest.raises(ValueError, match=r"expected a folder or a repository .*, got 'me/other': no model.metabox"):
        from_pretrained("me/other")


def test_what_the_hub_refuses_is_said(model: Model, stand_in: type[Api]) -> None:
    with pytest.raises(ValueError, match="expected a model with a licence to publish"):
        push_to_hub(replace(model, licence=""), "me/small")
    with pytest.raises(ValueError, match="could not publish 'me/small': 401"):
        push_to_hub(model, "me/small", token="wrong")


def test_a_folder_without_a_model_and_a_missing_extra_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="found no such file"):
        from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'pip install "\.\[hub\]"'):
        from_pretrained("me/small")
