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

from metabox.config import differences
from metabox.files import read_json, write_json, write_whole
from metabox.sharding import load_whole, load_whole_optimizer, whole

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one before it should the disk damage the newest


def save_tensors(path: str | Path, tensors: dict[str, Tensor], **facts: object) -> None:
    """Write named tensors (a `state_dict`, a phi) and a few facts about them as one safetensors file."""
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    write_whole(path, lambda tmp: save_file(plain, tmp, metadata={key: str(value) for key, value in facts.items()}))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the facts of a file that `save_tensors` wrote.

    Raises:
        ValueError: where there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
        # Copies: a part of a file begins anywhere, and how a product is rounded depends on where its factors begin.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}, facts
    except FileNotFoundError as error:
        raise ValueError(f"expected weights in {path}, found no such file; train first, or check the path") from error
    except OSError as error:
        raise OSError(f"could not read {path}: {error.strerror or error}") from error
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
    """The checkpoints of one run: folders `step-N`, each made under another name and then renamed, so always whole.

    Args:
        folder: where they lie.
        settings: what the run is made of, as JSON has it; going on with other settings is refused.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.settings = settings or {}

    def save(
        self, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, state: Any, write: bool = True
    ) -> None:
        """All devices call this together, for weights may be in shards; one of them writes."""
        tensors = {name: whole(module.state_dict()) for name, module in modules.items()}
        optimizer_state = whole(optimizer.state_dict())
        if not write:
            return
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        for name in modules:
            save_tensors(temporary / f"{name}.safetensors", tensors[name])
        write_whole(temporary / "optimizer.pt", lambda tmp: torch.save(optimizer_state, tmp))
        write_json(temporary / "state.json", {"settings": self.settings, "state": state})
        if target.exists():  # the same step once more, after a resume: the same bits
            shutil.rmtree(target)
        temporary.rename(target)
        for old in self._steps()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> Any | None:
        """Load the newest checkpoint that can be read, and return its state; None where there is none at all.

        Raises:
            ValueError: where the run has other settings, or every checkpoint is damaged.
        """
        folders = self._steps()
        for folder in reversed(folders):
            try:  # read everything before anything is changed
                saved = read_json(folder / "state.json")
                settings, state = saved["settings"], saved["state"]
                tensors = {name: load_tensors(folder / f"{name}.safetensors")[0] for name in modules}
                optimizer_state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
                _ = optimizer_state["state"], optimizer_state["param_groups"]
            except Exception as error:  # a damaged file makes its reader raise whatever it likes
                log.warning("checkpoint %s cannot be read (%s); trying the one before it", folder, error)
                continue
            self._check_same(settings)
            try:
                load_whole_optimizer(optimizer, optimizer_state)
                load_whole(modules, tensors)
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"expected {folder} to fit this learner, got another one's: {error}") from error
            return state
        if folders:
            raise ValueError(
                f"expected a checkpoint that can be read in {self.folder}, got {len(folders)} damaged ones; "
                "restore one, or start anew in another folder"
            )
        return None

    def _check_same(self, settings: dict[str, Any]) -> None:
        differ = list(differences(settings, self.settings))
        if differ:
            raise ValueError(
                f"expected the run in {self.folder.parent} to have the same settings, got {'; '.join(differ)}; "
                "use another folder"
            )

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))
