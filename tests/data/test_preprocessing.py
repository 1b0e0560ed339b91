"""Images of any size and mode prepared as a set was, and that `data/` knows no tasks."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import metabox.data
from metabox.data.preprocessing import Preprocessing

FOLDER = Path(metabox.data.__file__).parent


def imports(source: str) -> set[str]:
    """The modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.stem)
def test_data_is_bytes_and_knows_no_tasks(path: Path) -> None:
    above = [
        name for name in imports(path.read_text(encoding="utf-8")) if name.startswith(("metabox.tasks", "metabox.lear"))
    ]
    assert not above


def test_the_reading_of_imports_finds_those_that_are_hidden() -> None:
    source = "def f():\n    from metabox import tasks\n    import metabox.tasks.nway as n\n"
    assert {"metabox.tasks", "metabox.tasks.nway"} <= imports(source)


GRADIENT = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"channels": 1, "image_size": 28, "resample": "box", "inverted": True}, (1, 28, 28)),
        ({"channels": 3, "image_size": 20, "resample": "lanczos"}, (3, 20, 20)),
        ({"channels": 3, "image_size": 20, "enlarged": 1.15}, (3, 20, 20)),
        ({"channels": 1, "image_size": None}, (1, 40, 60)),
        ({"channels": 3, "image_size": None}, (3, 40, 60)),
    ],
)
def test_an_image_of_any_mode_becomes_what_the_options_say(
    mode: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    made = Preprocessing(**options)(Image.fromarray(GRADIENT).convert(mode))
    assert (made.shape, made.dtype, made.flags["C_CONTIGUOUS"]) == (shape, np.uint8, True)


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (200, 90), (60, 240)])
def test_ink_of_either_kind_becomes_white_on_black(paper: int, ink: int) -> None:
    drawn = np.full((20, 20), paper, dtype=np.uint8)
    drawn[5:9, 4:16] = ink
    drawn[9, 4:16] = (paper + ink) // 2
    seen = Preprocessing(1, None, inverted="auto")(Image.fromarray(drawn))[0]
    assert set(seen[5:9, 4:16].flat) == {255}
    assert {abs(int(level) - 128) <= 2 for level in seen[9, 4:16]} == {True}
    assert seen.sum() == seen[5:10, 4:16].sum()
    wide = Preprocessing(1, 20, fit="pad", inverted="auto")(Image.fromarray(drawn[:10]))[0]
    assert wide[:5].max() == wide[-5:].max() == 0, "borders are of the colour of the paper"


def test_blank_paper_stays_blank() -> None:
    noise = np.random.default_rng(0).integers(216, 221, size=(20, 20)).astype(np.uint8)
    assert Preprocessing(1, None, inverted="auto")(Image.fromarray(noise)).max() < 40


def test_the_middle_is_cut_out_and_ink_is_inverted() -> None:
    image = Image.fromarray(GRADIENT)
    whole = np.asarray(image.resize((23, 23), Image.Resampling.BILINEAR))
    cut = Preprocessing(1, 20, "bilinear", enlarged=1.15, inverted=True)(image)[0]
    assert np.array_equal(cut, 255 - whole[1:21, 1:21])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"channels": value} for value in (2, None, "3", [3])),
        *({"image_size": value} for value in (0, -1, 1.5, True, "28", 1 << 20)),
        *({"resample": value} for value in ("nearest", None, ["box"])),
        *({"enlarged": value} for value in (0.5, 3, float("nan"), "1", None)),
        *({"inverted": value} for value in (1, None, "yes")),
    ],
)
def test_facts_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^expected .*, got "):
        Preprocessing(**({"channels": 3, "image_size": 28} | wrong))


def test_facts_survive_json() -> None:
    facts = Preprocessing(3, (20, 30), fit="crop", background=7)
    assert Preprocessing(**json.loads(json.dumps(asdict(facts)))) == facts
