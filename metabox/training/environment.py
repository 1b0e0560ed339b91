"""The environment of a result: versions, machine and commit; no host names and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import metabox
from metabox.files import read_json


def read_environment(run: str | Path) -> dict[str, Any]:
    """The environment that a run was trained in, from its `environment.json`.

    Raises:
        ValueError: if the file is missing, or has changed since it was written.
    """
    path = Path(run) / "environment.json"
    if not path.exists():
        raise ValueError(f"expected {path} of a run, found no such file; restore it, or train anew")
    found: dict[str, Any] = read_json(path, hashed=True)
    return found


def collect_environment() -> dict[str, str | int | bool | None]:
    """Versions, processor, accelerator, threads, and the git commit if the package runs from a checkout.

    `git_commit`, and `git_tree`, the hash that git gives to the folder of the package, are None outside a checkout;
    `git_dirty` is whether tracked files differ from the commit, and None if git cannot tell.
    """
    import torch  # here, because it takes a second

    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "metabox": metabox.__version__,
        **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_tree": _git("rev-parse", "HEAD:metabox"),
        "git_dirty": _is_dirty(),
    }


def _cpu() -> str:
    """The processor's model, which Linux reports only in /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """The output of git for the checkout that this file belongs to, or None if it belongs to none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # installed, perhaps below another project's checkout
        return None
    # A git hook that runs this sets variables that would lead git to the hook's repository.
    variables = {name: value for name, value in os.environ.items() if name not in GIT_VARIABLES}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, env=variables, capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")


def _is_dirty() -> bool | None:
    """Whether tracked files differ from the commit, without running a program that the repository's config names."""
    commands = ["core.fsmonitor=false", f"core.hooksPath={os.devnull}"]
    filters = _git("config", "--name-only", "--get-regexp", r"^filter\..*\.(clean|process)$") or ""
    words = [word for setting in [*commands, *(f"{name}=" for name in filters.split())] for word in ("-c", setting)]
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    changed = _git("--no-optional-locks", *words, *status)
    return None if changed is None else bool(changed)
