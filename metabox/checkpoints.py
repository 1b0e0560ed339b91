"""Checkpoints and weights on disk. Nothing read here can run code: safetensors, JSON, and `weights_only` tensors."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metabox.files import read_json, write_json, write_whole

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one before it should the disk damage the newest


def save_tensors(path: str | Path, tensors: dict[str, Tensor], **facts: object) -> None:
    """Write named tensors (a `state_dict`, a phi) and a few facts about them as one safetensors file."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda tmp: save_file(plain, tmp, metadata={key: str(value) for key, value in facts.items()}))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the facts of a file that `save_tensors` wrote.

    Raises:
        ValueError: where there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        return load_file(path), facts
    except FileNotFoundError as error:
        raise ValueError(f"expected weights in {path}, found no such file; train first, or check the path") from error
    except SafetensorError as error:
        raise ValueError(f"expected a safetensors file, got a damaged or other one: {path} ({error})") from error


def load_weights(module: nn.Module, path: str | Path) -> dict[str, str]:
    """Load weights into a module of the same shape; returns the facts stored with them.

    Raises:
        ValueError: where the file is missing or damaged, or belongs to another architecture.
    """
    tensors, facts = load_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"expected the weights of this architecture in {path}, got others: {error}") from error
    return facts


class Checkpoints:
    """The checkpoints of one run: folders `step-N`, each made under another name and then renamed, so always whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: Any) -> None:
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name, module in modules.items():
            save_tensors(temporary / f"{name}.safetensors", module.state_dict())
        write_whole(temporary / "optimizer.pt", lambda tmp: torch.save(optimizer.state_dict(), tmp))
        write_json(temporary / "state.json", state)
        if target.exists():  # the same step once more, after a resume: the same bits
            shutil.rmtree(target)
        temporary.rename(target)
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> Any | None:
        """Load the newest checkpoint that can be read, and return its state; None where there is none."""
        for folder in reversed(self._steps()):
            try:
                state = read_json(folder / "state.json")
                optimizer_state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
                for name, module in modules.items():
                    load_weights(module, folder / f"{name}.safetensors")
                optimizer.load_state_dict(optimizer_state)
                return state
            except (OSError, ValueError, RuntimeError, EOFError) as error:
                log.warning("checkpoint %s cannot be read (%s); trying the one before it", folder, error)
        return None

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
