"""Pre-training a backbone on all training classes, and going on from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from made_up import made, opened
from safetensors.torch import load_file

from metabox import evaluate
from metabox.cli.main import main
from metabox.data.augment import RandomFlip
from metabox.files import read_json
from metabox.from_run import FromRun
from metabox.learners import ProtoNet
from metabox.nn.backbones import Conv4
from metabox.targets import Classes, TaskSpec
from metabox.tasks.images.all_classes import AllClasses
from metabox.tasks.images.omniglot import Omniglot
from metabox.tasks.place import Place

RECIPE = """
# Pre-training
tasks:
  class_path: AllClasses
  init_args:
    images: {{class_path: Omniglot, init_args: {{rotations: false, data_root: {root}}}}}
learner:
  class_path: HardSharing
  init_args: {{backbone: {{class_path: Conv4, init_args: {{width: 16, downsample: stride}}}}}}
outer: {{steps: {steps}, n_tasks: 4, lr: 1.0e-2, warmup: 0, validate_every: {steps}, n_validation: 2}}
n_test: 2
"""


def pretrained(folder: Path, root: str, steps: int) -> Path:
    (folder / "pretrain.yaml").write_text(RECIPE.format(root=root, steps=steps))
    assert main(["train", str(folder / "pretrain.yaml"), "--out", str(folder / "first")]) == 0
    return folder / "first"


def test_each_class_has_its_own_label_and_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    images = opened(made(tmp_path / "set", ["a", "b", "c"], each=10))
    tasks = AllClasses(images, n_query=40, held_out=0.1)
    assert tasks.spec == TaskSpec((1, 8, 8), Classes(3))
    seen: dict[str, set[tuple[int, int]]] = {}
    for split in ("train", "val", "test"):
        episodes = tasks.sample(Place(20, split))
        tasks.spec.check_episodes(episodes)
        assert episodes.origin is not None
        seen[split] = set(zip(episodes.origin.flatten().tolist(), episodes.query.y.flatten().tolist(), strict=True))
    assert {split: len(pairs) for split, pairs in seen.items()} == {"train": 24, "val": 3, "test": 3}
    assert len(set.union(*seen.values())) == len({image for pairs in seen.values() for image, _ in pairs}) == 30
    assert all(image // 10 == label for pairs in seen.values() for image, label in pairs)


def test_a_row_does_not_depend_on_the_rows_beside_it_and_only_training_images_change(tmp_path: Path) -> None:
    folder = made(tmp_path / "set", ["a", "b"], each=10)
    tasks = AllClasses(opened(folder, augment=RandomFlip(1.0)), n_query=5)
    whole, part = tasks.sample(Place(6, "train", index=3)), tasks.sample(Place(2, "train", index=3, first=4))
    assert torch.equal(whole[4:].query.x, part.query.x)
    plain = AllClasses(opened(folder), n_query=5)
    assert torch.equal(plain.sample(Place(6, "train", index=3)).query.x.flip(-1), whole.query.x)
    assert torch.equal(plain.sample(Place(6, "val", index=3)).query.x, tasks.sample(Place(6, "val", index=3)).query.x)


def test_the_weights_of_the_run_arrive_and_a_result_says_so(tmp_path: Path, omniglot_root: str) -> None:
    first = pretrained(tmp_path, omniglot_root, steps=2)
    weights = load_file(first / "best.safetensors")
    backbone = FromRun((1, 28, 28), str(first))
    for name, value in backbone.inner.state_dict().items():
        assert torch.equal(value, weights[f"embed.backbone.{name}"])
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in FromRun((1, 28, 28), str(first), freeze=True).parameters())

    (tmp_path / "second.yaml").write_text(
        f"tasks: {{class_path: Omniglot, init_args: {{data_root: {omniglot_root}}}}}\n"
        "learner:\n  class_path: ProtoNet\n  init_args:\n"
        f"    backbone: {{class_path: FromRun, init_args: {{run: {first}}}}}\n"
        "outer: {steps: 1, n_tasks: 1, validate_every: 1, n_validation: 1}\nn_test: 1\n"
    )
    assert main(["train", str(tmp_path / "second.yaml"), "--out", str(tmp_path / "second")]) == 0
    result = read_json(next((tmp_path / "second" / "results").glob("*.json")))
    assert result["protocol"]["pretrained"] == backbone.origin
    assert str(backbone.origin).startswith("first (")


def test_a_pretrained_start_beats_a_random_one_on_new_classes(tmp_path: Path, omniglot_root: str) -> None:
    first = pretrained(tmp_path, omniglot_root, steps=60)
    tasks = Omniglot(n_way=5, n_shot=1, n_query=5, rotations=False, data_root=omniglot_root)

    def accuracy(backbone: object) -> float:
        torch.manual_seed(0)
        learner = ProtoNet(tasks.spec, backbone=backbone)  # type: ignore[arg-type]
        return evaluate(learner.eval(), tasks, split="val", n_tasks=100).mean("accuracy")

    random = accuracy(partial(Conv4, width=16, downsample="stride"))
    assert accuracy(partial(FromRun, run=str(first))) > random + 0.1


def test_a_run_that_is_not_there_or_sees_other_inputs_is_named(tmp_path: Path, omniglot_root: str) -> None:
    with pytest.raises(ValueError, match="expected the folder of a run"):
        FromRun((1, 28, 28), str(tmp_path))
    first = pretrained(tmp_path, omniglot_root, steps=1)
    with pytest.raises(ValueError, match=r"for inputs \[3, 32, 32\], got one for \[1, 28, 28\] in .*first"):
        FromRun((3, 32, 32), str(first))
    with pytest.raises(ValueError, match="at least 3 images in every class"):
        AllClasses(opened(made(tmp_path / "few", ["a", "b"], each=2)), held_out=0.4).sample(Place(1, "train"))
    with pytest.raises(ValueError, match=r"held_out as a number above 0 and below 0\.5"):
        AllClasses(opened(made(tmp_path / "more", ["a", "b"])), held_out=0.5)
