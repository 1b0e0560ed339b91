"""Checkpoints on disk: safetensors and JSON, which cannot run code, each with a verified hash."""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metabox.config import differences
from metabox.files import read_json, write_json
from metabox.tensors import read_tensors, save_tensors
from metabox.training.run_folder import UNFINISHED
from metabox.training.sharding import full_tensors, load_full_optimizer_state, load_full_weights

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before it in case the newest is damaged


class Checkpoints:
    """The checkpoints of one run: folders `step-N`, each written under a temporary name, so never incomplete.

    A checkpoint is `state.json`, the weights of each module and the moments of the optimizer. `state.json` holds a
    hash of itself and those of the other files, so that all are known to be of the same step.

    Args:
        folder: of the checkpoints.
        settings: of the run, as plain JSON; resuming with other settings is refused.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.settings = settings or {}

    def save(
        self,
        step: int,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        state: dict[str, Any],
        write: bool = True,
    ) -> None:
        """Write a checkpoint. All processes call this together, for weights may be sharded; one of them writes."""
        tensors = {name: full_tensors(module.state_dict()) for name, module in modules.items()}
        moments = full_tensors(optimizer.state_dict())["state"]
        if not write:
            return
        tensors["optimizer"] = {f"{i}.{name}": value for i, values in moments.items() for name, value in values.items()}
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f"{UNFINISHED}{step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            hashes = {name: save_tensors(temporary / f"{name}.safetensors", tensors[name]) for name in tensors}
            content = {"settings": self.settings, "state": state, "hashes": hashes}
            write_json(temporary / "state.json", content, hashed=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # the disk may be full
            raise
        if target.exists():  # the same step again, after resuming: the same bits
            self._discard(target)
        temporary.rename(target)
        for old in self._steps()[:-KEPT]:
            self._discard(old)

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read, and return its state; None if there is no checkpoint.

        Raises:
            ValueError: if the run has other settings, every checkpoint is damaged, or one does not fit the modules.
        """
        folders = self._steps()
        for folder in reversed(folders):
            try:  # read everything before changing anything
                settings, state, tensors = self._read(folder, modules)
            except (ValueError, OSError) as error:
                reason = " ".join(str(error).split())
                log.warning("checkpoint %s cannot be read (%s); trying the one before it", folder, reason)
                continue
            self._check_same(settings)
            try:
                load_full_optimizer_state(optimizer, tensors.pop("optimizer"))
                load_full_weights(modules, tensors)
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"expected {folder} to fit this learner, got another one's: {error}") from error
            return state
        if folders:
            raise ValueError(
                f"expected a checkpoint that can be read in {self.folder}, got {len(folders)} damaged ones; "
                "restore one, or start anew in another folder"
            )
        return None

    def recorded(self, name: str) -> Any:
        """A setting of the run, as the newest checkpoint that can be read has it; None if there is none."""
        for folder in reversed(self._steps()):
            with suppress(ValueError, OSError):  # `resume` warns of damaged ones
                return self._content(folder)["settings"].get(name)
        return None

    def newest(self) -> str:
        """A clause that says which checkpoint the run can resume from."""
        folders = self._steps()
        if not folders:
            return "no checkpoint yet"
        return f"the checkpoint of step {int(folders[-1].name.removeprefix('step-'))} in {self.folder.parent} is good"

    def _read(
        self, folder: Path, modules: dict[str, nn.Module]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        content = self._content(folder)
        tensors = {}
        for name in (*modules, "optimizer"):
            path = folder / f"{name}.safetensors"
            tensors[name], _, found = read_tensors(path)
            if content["hashes"].get(name) != found:
                raise ValueError(f"expected in {path} what {folder / 'state.json'} names, got that of another moment")
        return content["settings"], content["state"], tensors

    def _content(self, folder: Path) -> dict[str, dict[str, Any]]:
        content: dict[str, Any] = read_json(folder / "state.json", hashed=True)
        parts = ("settings", "state", "hashes")
        if set(content) != set(parts) or not all(isinstance(content[part], dict) for part in parts):
            raise ValueError(f"expected {parts} in {folder / 'state.json'}, got something else")
        return content

    def _check_same(self, settings: dict[str, Any]) -> None:
        differ = list(differences(settings, self.settings))
        if differ:
            raise ValueError(
                f"expected the run in {self.folder.parent} to have the same settings, got {'; '.join(differ)}; "
                "use another folder"
            )

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    def _discard(self, folder: Path) -> None:
        """Rename a checkpoint, then delete it, so that an incomplete one is never found under its own name."""
        condemned = self.folder / f"{UNFINISHED}old-{folder.name}"
        shutil.rmtree(condemned, ignore_errors=True)
        folder.rename(condemned)
        shutil.rmtree(condemned, ignore_errors=True)
