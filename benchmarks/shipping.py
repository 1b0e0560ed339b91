"""What the scripts of the models that come with the package share: from a finished run to the file that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from manifest import RESULTS
from readings import log_of
from torch import nn

from metabox.files import write_json
from metabox.model import Model
from metabox.training.environment import read_environment

MODELS = Path(__file__).parents[1] / "metabox" / "models"


def halved(module: nn.Module) -> None:
    """Round weights and statistics to what half precision holds, in which they ship and are measured."""
    for part in (*module.parameters(), *module.buffers()):
        if part.is_floating_point():
            part.data = part.half().to(part.dtype)


def about(out: Path, recipe: str, seed: int) -> dict[str, Any]:
    """How the learner of a finished run came about."""
    last = log_of(out)[-1]
    return {
        "recipe": recipe,
        "seed": seed,
        "steps": last["step"],
        "training_seconds": round(last["seconds"], 1),
        "trained_on": read_environment(out),
    }


def save(name: str, model: Model, card: str, folder: Path = MODELS) -> None:
    """Write the model with its card."""
    folder.mkdir(exist_ok=True)
    replace(model, name=name, licence="MIT", card=card).save(folder / f"{name}.metabox")


def ship(name: str, model: Model, result: dict[str, Any], card: str) -> None:
    """Write the result, and the model with its card; print the card."""
    write_json(RESULTS / f"{name}.json", result)
    save(name, model, card)
    print(card)
