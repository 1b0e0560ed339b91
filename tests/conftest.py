"""Shared fixtures: a separate cache, small image folders, and the place of real data."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process for each core; torch reads it when imported

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings
from made_up import made

# No test may depend on the speed of the machine, which may be busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Packs go to a folder of this session, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METABOX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for one test, to count or damage the packs in it."""
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of six class folders with four grey 8x8 images each."""
    return made(tmp_path / "images", [f"class{c}" for c in range(6)])


@pytest.fixture(autouse=True)
def _data_root_of_a_test() -> Iterator[None]:
    """What `--data-root` sets in one test is undone before the next."""
    before = os.environ.get("METABOX_DATA")
    yield
    if before is None:
        os.environ.pop("METABOX_DATA", None)
    else:
        os.environ["METABOX_DATA"] = before


@pytest.fixture(scope="session")
def omniglot_root() -> str:
    """The data root that holds Omniglot. Without it a test is skipped, or fails if CI is set."""
    root = Path(os.environ.get("METABOX_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if any((root / folder).is_dir() for folder in ("omniglot", "omniglot-py")):
        return str(root)
    missing = "no Omniglot: set METABOX_DATA to a folder that holds omniglot/images_background.zip"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a site, built once for all processes of a session; a warning is an error."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    built, log = base / "site", base / "site.log"
    with FileLock(base / "site.lock"):
        if not log.exists():
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-d", base / "site-cache"]
            docs = Path(__file__).parents[1] / "docs"
            done = subprocess.run([*command, docs, built], capture_output=True, text=True, check=False)
            log.write_text(done.stderr if done.returncode else "", encoding="utf-8")
    if said := log.read_text(encoding="utf-8"):
        pytest.fail(said)
    return built
