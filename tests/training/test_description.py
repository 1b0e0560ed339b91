"""What a run keeps beside its weights: enough to use it after its data are gone."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import PARTS

import metabox
from metabox import (
    Bars,
    Binary,
    Classes,
    Direction,
    Huber,
    Laplace,
    Parts,
    PerTask,
    Place,
    Quantiles,
    Reals,
    Target,
    TaskSpec,
)
from metabox.cli.main import main
from metabox.data.preprocessing import Preprocessing
from metabox.discover import subclasses
from metabox.files import read_json, write_json
from metabox.targets.mixture import Mixture
from metabox.tasks import ClassFolder, Curriculum, FixedLabels, Glyphs, Prefetch, RandomProjections
from metabox.tasks.sampler import EpisodeSampler
from metabox.tasks.wrappers.base import Wrapper
from metabox.training.description import NAME, Description, read_description, write_description

RECIPE = """tasks: {class_path: ClassFolder, init_args: {path: FOLDER, image_size: 16, channels: 1, n_way: 2,
  n_query: 2, splits: [0.4, 0.3, 0.3]}}
learner: {class_path: CNP, init_args: {backbone: {class_path: Conv4, init_args: {width: 4, norm: group}}}}
outer: {steps: 2, n_tasks: 2, validate_every: 2, n_validation: 2, warmup: 1, precision: "32"}
n_test: 2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, whose images are no longer there; the cache of packs is not either."""
    root = tmp_path_factory.mktemp("described")
    random = np.random.default_rng(0)
    for c in range(12):
        (root / f"images/character-{c}").mkdir(parents=True)
        for i in range(3):
            pixels = random.integers(256, size=(8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"images/character-{c}/{i}.png")
    (root / "recipe.yaml").write_text(RECIPE.replace("FOLDER", str(root / "images")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METABOX_CACHE", str(root / "cache"))
        assert main(["train", str(root / "recipe.yaml"), "--out", str(root / "run")]) == 0
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "cache")
    return root / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_is_loaded_and_predicts_when_its_images_are_gone(run: Path) -> None:
    learner, _ = metabox.load_run(run)
    x = torch.zeros(1, 4, 1, 16, 16, dtype=torch.uint8)
    phi = learner.adapt(metabox.Examples(x=x, y=torch.tensor([[0, 0, 1, 1]])))
    assert learner.predict(phi, x).shape == (1, 4, 2)


def test_evaluating_without_the_images_names_their_folder_in_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run)]) == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert "expected a folder of class folders or a CSV file, got " in said
    assert "/images'" in said


def test_how_images_were_prepared_and_what_classes_were_called_is_kept(run: Path) -> None:
    kept = read_description(run)
    assert kept.spec == TaskSpec((1, 16, 16), Classes(2))
    assert kept.preprocessing == Preprocessing(1, 16)
    assert set(kept.class_names) == {"train", "val", "test"}  # the command line tries all three
    assert sorted(name for names in kept.class_names.values() for name in names) == sorted(
        f"character-{c}" for c in range(12)
    )


def test_a_whole_run_is_checked_file_by_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"recipe.yaml: whole", "model.json: whole", "best.safetensors: whole"} <= set(lines)
    assert lines[-1].endswith("files, all whole")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [NAME, "environment.json", "best.safetensors", "recipe.yaml", "metrics.jsonl"])
@pytest.mark.parametrize("harm", [damage, Path.unlink])
def test_a_damaged_or_missing_file_of_a_run_is_named(
    run: Path, name: str, harm: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    harm(run / name)
    assert main(["check", str(run)]) == 2 or name == "recipe.yaml"  # without which it is no run
    said = capsys.readouterr()
    assert f"1 of {len(said.out.splitlines())} damaged ({name})" in said.err or not (run / "recipe.yaml").exists()


def test_a_damaged_description_is_named_before_the_run_has_ended(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "manifest.json").unlink()
    assert main(["check", str(run)]) == 0
    capsys.readouterr()
    (run / NAME).write_bytes((run / NAME).read_bytes().replace(b"character-1", b"character-x", 1))
    assert main(["check", str(run)]) == 2
    assert f"damaged ({NAME})" in capsys.readouterr().err
    with pytest.raises(ValueError, match=NAME):
        metabox.load_run(run)


SPECS = [
    TaskSpec((1, 28, 28), Classes(5)),
    TaskSpec((2,), Reals(2, noise=0.1), descriptor_size=3, tasks=("a", "b")),
    TaskSpec((), Bars(1, n_bars=7)),
    TaskSpec((1,), Mixture(2, n_components=3)),
    TaskSpec((4,), Binary(3)),
    TaskSpec((4,), Classes(3, focal=2, weights=(1, 0.5, 2))),
    TaskSpec((1,), Laplace(2)),
    TaskSpec(
        (1,), PerTask(("a", "b"), (Laplace(2), Reals(2, noise=1))), descriptor_size=2, index_size=2, tasks=("a", "b")
    ),
    TaskSpec((1,), Huber(2, delta=0.5)),
    TaskSpec((1,), Quantiles(1, levels=(0.1, 0.9))),
    TaskSpec((1,), Direction(3)),
    TaskSpec((3, 2, 2), Parts(PARTS)),
]


def test_every_kind_of_target_is_among_the_specs() -> None:
    assert {type(spec.target).__name__ for spec in SPECS} == {
        found.name for found in subclasses("Target") if not inspect.isabstract(found.load())
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec.target).__name__)
@pytest.mark.parametrize("preprocessing", [None, Preprocessing(3, None, "lanczos", 1.15, True)])
def test_a_description_is_read_as_it_was_written(
    spec: TaskSpec, preprocessing: Preprocessing | None, tmp_path: Path
) -> None:
    written = Description(spec, preprocessing, {"val": ["é", "b"]})
    write_description(tmp_path, written)
    assert read_description(tmp_path) == written


class Foreign(Target):
    """Of a script, which no other process need know."""


CONTENT: dict[str, Any] = {
    "spec": {
        "class": "metabox.targets.spec.TaskSpec",
        "x_shape": [3],
        "target": {"class": "metabox.targets.classes.Classes", "size": 2},
        "descriptor_size": 0,
        "tasks": [],
    },
    "preprocessing": None,
    "class_names": {},
}


def changed(*path: str, to: object) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(CONTENT))
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return content


@pytest.mark.parametrize(
    "content",
    [
        {},
        changed("spec", to=None),
        changed("spec", to=[]),
        changed("spec", "target", "size", to="many"),
        changed("spec", "target", "more", to=1),
        changed("spec", "class", to="metabox.targets.classes.Classes"),
        changed("spec", "x_shape", to=5),
        changed("spec", "x_shape", to=["a"]),
        changed("spec", "descriptor_size", to="a"),
        changed("preprocessing", to={"channels": 9, "image_size": 3}),
        changed("preprocessing", to=[1]),
        changed("preprocessing", to={"__class__": 1}),
        changed("class_names", to=["train"]),
        changed("class_names", to={"training": []}),
        changed("class_names", to={"train": [1]}),
        changed("class_names", to={"train": 1}),
    ],
)
def test_a_description_of_a_stranger_is_refused_and_runs_nothing(content: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / NAME, CONTENT, hashed=True)
    assert read_description(tmp_path).spec.x_shape == (3,)
    write_json(tmp_path / NAME, content, hashed=True)
    with pytest.raises(ValueError, match=rf"expected spec, preprocessing and class_names in .*{NAME}, got something"):
        read_description(tmp_path)
    assert read_json(tmp_path / NAME, hashed=True) == content


@pytest.mark.parametrize("path", ["os.system", "metabox.tasks.images.glyphs.Glyphs", f"{__name__}.Foreign", ["a"]])
def test_a_description_can_name_targets_only(path: object, tmp_path: Path) -> None:
    write_json(tmp_path / NAME, changed("spec", "target", to={"class": path}), hashed=True)
    with pytest.raises(ValueError, match="which is no target of metabox or of a plugin"):
        read_description(tmp_path)


class Told(EpisodeSampler):
    """Answers what a wrapper may be asked."""

    spec = TaskSpec((1, 4, 4), Classes(2))
    preprocessing = Preprocessing(1, 4)

    def sample(self, place: Place, device: object = "cpu") -> Any:  # type: ignore[override]
        return Glyphs(n_way=2, image_size=8).sample(place)

    def class_names(self) -> Any:
        return {"train": ["a", "b"]}

    def fingerprint(self) -> str:
        return "told 1"


@pytest.mark.parametrize("wrap", [FixedLabels, RandomProjections, Prefetch])
def test_a_wrapper_answers_what_the_inner_sampler_does(wrap: Callable[[EpisodeSampler], EpisodeSampler]) -> None:
    outer, inner = wrap(Told()), Told()
    assert isinstance(outer, Wrapper)
    assert (outer.preprocessing, outer.class_names()) == (inner.preprocessing, inner.class_names())
    assert outer.fingerprint() == outer.identity()["data"] == "told 1"
    assert outer.spec.target == inner.spec.target


def test_every_wrapper_of_samplers_has_the_one_base() -> None:
    makers = [found.load() for found in subclasses("EpisodeSampler") if found.module.startswith("metabox.tasks.wrapp")]
    assert {maker for maker in makers if not issubclass(maker, Wrapper)} == {metabox.tasks.FromLearn2Learn}
    assert Curriculum().fingerprint() == "LinearFunctions (generated)"


def test_names_are_those_of_splits_that_were_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path / "cache"))
    for c in "abcdef":
        (tmp_path / "images" / c).mkdir(parents=True)
        for i in range(2):
            Image.linear_gradient("L").resize((4 + i, 4)).crop((0, 0, 4, 4)).save(tmp_path / f"images/{c}/{i}.png")
    write_json(tmp_path / "splits.json", {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]})
    tasks = ClassFolder(str(tmp_path / "images"), splits=str(tmp_path / "splits.json"), n_way=2, n_query=1)
    assert tasks.class_names() == {}
    assert "images" not in vars(tasks), "asking for names opens nothing"
    tasks.sample(Place(1, "val"))
    assert tasks.class_names() == {"val": ["c", "d"]}
    assert Glyphs().class_names() == {}
