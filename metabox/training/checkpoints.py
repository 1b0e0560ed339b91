"""Checkpoints and weights on disk: safetensors and JSON, which cannot run code, each with a hash that is checked."""

from __future__ import annotations

import json
import logging
import shutil
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from metabox.config import differences
from metabox.files import HASH, read_json, write_json, write_whole
from metabox.training.run_folder import UNFINISHED
from metabox.training.sharding import load_whole, load_whole_optimizer, whole

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and one before it should the disk damage the newest


def save_tensors(path: str | Path, tensors: dict[str, Tensor], **facts: object) -> str:
    """Write named tensors (a `state_dict`, a phi) and a few facts about them as one safetensors file.

    Returns:
        The hash of all of it, which the file carries too.
    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    about = {key: str(value) for key, value in facts.items()}
    about[HASH] = _hash(plain, about)
    write_whole(path, lambda temporary: save_file(plain, temporary, metadata=about))
    return about[HASH]


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the facts of a file that `save_tensors` wrote.

    Raises:
        ValueError: if there is no such file, or it is not as it was written.
    """
    tensors, facts, _ = _load(Path(path))
    return tensors, facts


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    if not path.is_file():  # opening a pipe would wait for somebody to write
        raise ValueError(f"expected weights in {path}, found no such file; train first, or check the path")
    try:
        with safe_open(path, "pt") as file:
            facts = dict(file.metadata() or {})
            # Copies: a part of a file begins anywhere, and how a product is rounded depends on where its factors begin.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no dictionary
    except OSError as error:
        raise OSError(f"could not read {path}: {error.strerror or error}") from error
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"expected a safetensors file, got a damaged or other one: {path} ({error})") from error
    stored = facts.pop(HASH, None)
    if stored is None:
        raise ValueError(f"expected a hash in {path}, got none: metabox did not write it, or it was damaged")
    if stored != _hash(tensors, facts):
        raise ValueError(
            f"expected {path} as it was written, got tensors or facts that its hash does not belong to: "
            "it was damaged or changed; restore it"
        )
    return tensors, facts, stored


def _hash(tensors: dict[str, Tensor], facts: dict[str, str]) -> str:
    """Of names, kinds, shapes and bytes, and of the facts."""
    digest = blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_weights(module: nn.Module, path: str | Path) -> dict[str, str]:
    """Load weights into a module of the same shape; returns the facts stored with them.

    Raises:
        ValueError: if the file is missing or damaged, or belongs to another architecture.
    """
    tensors, facts = load_tensors(path)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"expected the weights of this architecture in {path}, got others: {error}") from error
    return facts


class Checkpoints:
    """The checkpoints of one run: folders `step-N`, each made under another name and then renamed, so always whole.

    A checkpoint is `state.json`, the weights of each module and the moments of the optimizer. `state.json` carries a
    hash of itself and names those of the other files, so that all of them are of one and the same moment.

    Args:
        folder: where they lie.
        settings: what the run is made of, as JSON has it; going on with other settings is refused.
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
        """All devices call this together, for weights may be in shards; one of them writes."""
        tensors = {name: whole(module.state_dict()) for name, module in modules.items()}
        moments = whole(optimizer.state_dict())["state"]
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
        if target.exists():  # the same step once more, after a resume: the same bits
            self._discard(target)
        temporary.rename(target)
        for old in self._steps()[:-KEPT]:
            self._discard(old)

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Load the newest checkpoint that can be read, and return its state; None if there is none at all.

        Raises:
            ValueError: if the run has other settings, every checkpoint is damaged, or one does not fit what it is for.
        """
        folders = self._steps()
        for folder in reversed(folders):
            try:  # read everything before anything is changed
                settings, state, tensors = self._read(folder, modules)
            except (ValueError, OSError) as error:
                reason = " ".join(str(error).split())
                log.warning("checkpoint %s cannot be read (%s); trying the one before it", folder, reason)
                continue
            self._check_same(settings)
            try:
                load_whole_optimizer(optimizer, tensors.pop("optimizer"))
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

    def newest(self) -> str:
        """What there is to go on from, in words."""
        folders = self._steps()
        if not folders:
            return "no checkpoint yet"
        return f"the checkpoint of step {int(folders[-1].name.removeprefix('step-'))} in {self.folder.parent} is good"

    def _read(
        self, folder: Path, modules: dict[str, nn.Module]
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        content = read_json(folder / "state.json", hashed=True)
        parts = ("settings", "state", "hashes")
        if set(content) != set(parts) or not all(isinstance(content[part], dict) for part in parts):
            raise ValueError(f"expected {parts} in {folder / 'state.json'}, got something else")
        tensors = {}
        for name in (*modules, "optimizer"):
            path = folder / f"{name}.safetensors"
            tensors[name], _, found = _load(path)
            if content["hashes"].get(name) != found:
                raise ValueError(f"expected in {path} what {folder / 'state.json'} names, got that of another moment")
        return content["settings"], content["state"], tensors

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
        """Delete a checkpoint under another name, so that nobody ever finds half of it under its own."""
        condemned = self.folder / f"{UNFINISHED}old-{folder.name}"
        shutil.rmtree(condemned, ignore_errors=True)
        folder.rename(condemned)
        shutil.rmtree(condemned, ignore_errors=True)
