"""What a result was made with: versions, machine and commit; no host names and no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def facts() -> dict[str, str | int | bool | None]:
    """Versions, processor, accelerator, threads, and the git commit where the package runs from a checkout.

    `git_commit` is None outside of a checkout; `git_dirty` tells whether tracked files differ from the commit.
    """
    import torch  # here, because it takes a second

    from metabox import __version__  # as it runs: a checkout on the path need not be installed

    commit = _git("rev-parse", "HEAD")
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "metabox": __version__,
        **{package: version(package) for package in ("torch", "torchvision", "numpy")},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "git_commit": commit,
        "git_dirty": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _cpu() -> str:
    """The processor's model: Linux tells it in /proc/cpuinfo only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """What git says of the checkout that this file belongs to, or None where it belongs to none."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed, perhaps below somebody else's checkout
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
