"""Tasks of features: what the backbone says of the same images, computed once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from made_up import made

from metabox.data.augment import RandomFlip
from metabox.data.pack import check_packs
from metabox.nn.backbones import MLP, Flatten
from metabox.tasks import ClassFolder, Glyphs, LinearFunctions
from metabox.tasks.place import Place
from metabox.tasks.wrappers.features import Features

ALL_IN_TRAINING = (1.0, 0.0, 0.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClassFolder:
    monkeypatch.setenv("METABOX_CACHE", str(tmp_path / "cache"))
    path = made(tmp_path / "set", [f"class{i}" for i in range(6)])
    return ClassFolder(str(path), channels=1, splits=ALL_IN_TRAINING, n_way=(2, 3), n_shot=1, n_query=2)


def test_features_are_those_of_the_images_of_the_same_task(folder: ClassFolder) -> None:
    tasks = Features(folder, partial(MLP, width=5, depth=1))
    images, found = folder.sample(Place(20, "train")), tasks.sample(Place(20, "train"))
    assert tasks.spec.x_shape == (5,)
    for of, inner in ((found.support, images.support), (found.query, images.query)):
        expected = tasks.backbone(inner.x).masked_fill(~inner.mask[..., None], 0)
        torch.testing.assert_close(of.x, expected.half().float(), rtol=2e-3, atol=1e-3)
        assert of.y.equal(inner.y)
        assert of.mask.equal(inner.mask)
    assert not found.support.mask.all()  # ways differ, so that there is padding


def test_each_image_is_embedded_once_even_by_another_process(
    folder: ClassFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Features(folder, Flatten)
    expected = first.sample(Place(4, "train"))
    monkeypatch.setattr(Features, "_embed", lambda *_: pytest.fail("embedded again"))
    assert first.sample(Place(4, "train")).query.x.equal(expected.query.x)
    assert Features(folder, Flatten).sample(Place(4, "train")).query.x.equal(expected.query.x)


def test_other_weights_are_other_features(folder: ClassFolder) -> None:
    one, other = (Features(folder, partial(MLP, width=5)) for _ in range(2))
    assert one.fingerprint() == one.fingerprint() != other.fingerprint() != folder.fingerprint()


def test_a_damaged_file_of_features_is_made_again(folder: ClassFolder, tmp_path: Path) -> None:
    expected = Features(folder, Flatten).sample(Place(4, "train"))
    (path,) = (tmp_path / "cache" / "features").iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:50], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        assert Features(folder, Flatten).sample(Place(4, "train")).query.x.equal(expected.query.x)
        assert path.read_bytes() == whole


def test_features_are_no_packs_for_the_check_of_packs(folder: ClassFolder) -> None:
    Features(folder, Flatten).sample(Place(4, "train"))
    assert list(check_packs().values()) == [None]


def test_what_has_no_stored_images_is_refused(folder: ClassFolder) -> None:
    with pytest.raises(ValueError, match="N-way sampler"):
        Features(LinearFunctions(), Flatten)
    with pytest.raises(ValueError, match="without augmentation"):
        Features(Glyphs(augment=RandomFlip()), Flatten)
    with pytest.raises(ValueError, match="stored images"):
        Features(Glyphs(), Flatten).sample(Place(1, "train"))
