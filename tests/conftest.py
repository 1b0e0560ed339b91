"""Shared fixtures: a separate cache, small image folders, and the place of real data."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a process for each core; torch reads it when imported

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings
from made_up import made

gc.disable()  # until the tests are collected: what is imported and collected stays

# No test may depend on the speed of the machine, which may be busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# jsonargparse writes some hundred records a parse to a logger that drops them all, a fifth of reading a recipe.
logging.getLogger("jsonargparse_null_logger").disabled = True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Garbage is looked for among what tests make, not among a million objects of modules."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


def shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, the same in all of its processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Packs go to a folder of this session, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METABOX_CACHE", str(shared_by_workers(tmp_path_factory) / "packs"))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> object:
    """A test that ends a process does not cut the power: what is written need not be on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which refuses a file that is not open, too
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
    base = shared_by_workers(tmp_path_factory)
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
