"""The layouts in which people keep their own images, and how these become splits."""

from __future__ import annotations

import itertools
import logging
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import everything, made, opened, png
from PIL import Image

from metabox.data.own_splits import dealt
from metabox.tasks.images.folder import ClassFolder
from metabox.tasks.place import Place

USUAL = (0.64, 0.16, 0.2)
SPLITS = ("train", "val", "test")


def own(path: Path, **kwargs) -> ClassFolder:
    return opened(path, **({"splits": None} | kwargs))


def named(sampler: ClassFolder) -> dict[str, list[str]]:
    return {split: [sampler.images.class_name(c) for c in found] for split, found in sampler.images.splits.items()}


def every(found: dict[str, list[str]]) -> list[str]:
    return sorted(itertools.chain(*found.values()))


def listed(folder: Path, rows: list[str], name: str = "images.csv") -> Path:
    (folder / name).write_text("\n".join(rows))
    return folder / name


@pytest.mark.parametrize("names", [SPLITS, ("Training", "valid", "testing")])
def test_folders_named_as_splits_are_the_users_own_split(tmp_path, names):
    folder = made(tmp_path / "set", [f"{names[0]}/a", f"{names[0]}/b", f"{names[1]}/c", f"{names[2]}/d"])
    assert named(own(folder)) == {"train": ["a", "b"], "val": ["c"], "test": ["d"]}


def test_classes_that_all_splits_share_are_split_by_image_which_is_said(tmp_path, caplog):
    folder = made(tmp_path / "set", [f"{split}/{c}" for split in ("train", "test") for c in ("cat", "dog")])
    sampler = own(folder)
    assert named(sampler) == {"train": ["train/cat", "train/dog"], "val": [], "test": ["test/cat", "test/dog"]}
    assert sampler.images.groups is None
    assert caplog.text.count("the images are split, not the classes") == 1


def test_classes_that_some_splits_share_are_refused_by_name(tmp_path):
    folder = made(tmp_path / "set", ["train/cat", "train/dog", "test/cat", "test/cow"])
    with pytest.raises(ValueError, match=r"got cat in several; rename"):
        own(folder)


def test_fractions_go_before_the_users_split_and_make_one_class_of_each_name(tmp_path):
    folder = made(tmp_path / "set", ["train/cat", "train/dog", "test/cat", "test/cow"])
    sampler = own(folder, splits=(1.0, 0.0, 0.0))
    assert named(sampler)["train"] == ["cat", "cow", "dog"]
    assert sampler.images.sizes.tolist() == [8, 4, 4]


def test_split_folders_without_class_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="images without class folders in: test, train"):
        own(made(tmp_path / "set", ["train", "test"]))


def test_one_folder_of_all_is_no_split_and_a_class_may_be_called_train(tmp_path):
    whole = named(own(made(tmp_path / "whole", [f"train/class{i}" for i in range(9)])))
    assert every(whole) == [f"class{i}" for i in range(9)]
    assert all(whole.values())
    rails = named(own(made(tmp_path / "rails", ["train", "bus", "tram"]), splits=(1.0, 0.0, 0.0)))
    assert rails["train"] == ["bus", "train", "tram"]


def test_groups_may_be_nested(tmp_path):
    sampler = own(made(tmp_path / "set", ["a/x/one", "a/x/two", "a/y/one", "b/x/one"]))
    assert [sampler.images.pack.group_names[g] for g in sampler.images.groups] == ["a/x", "a/x", "a/y", "b/x"]


def test_a_list_of_paths_and_labels_is_read_like_the_folders(tmp_path):
    folder = made(tmp_path / "set", ["one", "two"])
    rows = [f"{c}\\{i}.png,{c}" if i else f"{c}/{i}.png,{c}" for c in ("two", "one") for i in range(4)]
    train = {"splits": (1.0, 0.0, 0.0)}
    expected = everything(own(folder, **train))
    for head in ([], ["path,label"], ["\ufeffFile,Class"]):
        assert (
            everything(
                own(
                    listed(folder.parent, ["id," + head[0]] + [f"7,set/{row}" for row in rows])
                    if head == ["path,label"]
                    else listed(folder, head + rows),
                    **train,
                )
            )
            == expected
        ).all()
    split = own(
        listed(
            folder,
            ["label,path,split"]
            + [f"{c},{c}/{i}.png,{s}" for c, s in (("one", "train"), ("two", "Val")) for i in range(3)],
        )
    )
    assert named(split) == {"train": ["one"], "val": ["two"], "test": []}
    assert split.images.sizes.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["path,label", "../a.png,a", "a/0.png,", "a/0.txt,a", "a/0.png"],
            "row 2 .*not below.*row 3.*without.*row 4.*no image.*row 5 .too short",
        ),
        (["path,label", "/etc/passwd.png,a"], "not below the folder"),
        (["path,label,split", "a/0.png,a,later"], "'later', which is no split"),
        (["path,label", "a/0.png,a", "a/./0.png,b"], "a second time"),
        (["path,label", "a/0.png,a", "a/none.png,a", "a,b.png"], r"row 4|a/none.png \(No such file"),
        (["name,kind", "a/0.png,a"], "expected columns named path and label"),
        ([""], "expected a row for each image"),
        (["path,label"], "no images"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_row(tmp_path, rows, message):
    folder = made(tmp_path / "set", ["a"])
    with pytest.raises(ValueError, match=message):
        own(listed(folder, rows))


@pytest.mark.parametrize("n", [*range(4, 30), 100])
@pytest.mark.parametrize("fractions", [USUAL, (0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.98, 0.01, 0.01)])
def test_no_split_is_left_empty_nor_with_one_class_if_there_are_more(n, fractions):
    for seed in range(5):
        found = dealt([f"{seed} {i}" for i in range(n)], fractions)
        wanted = [split for split, share in zip(SPLITS, fractions, strict=True) if share]
        assert min(len(found[split]) for split in wanted) >= min(2, n // len(wanted))
        assert Counter(every(found)) == Counter(f"{seed} {i}" for i in range(n))
        assert [found[split] for split in SPLITS if split not in wanted] == [[]] * (3 - len(wanted))


def test_of_two_or_three_classes_the_images_are_split_which_is_said(tmp_path, caplog):
    sampler = own(made(tmp_path / "set", ["cat", "dog"], each=25))
    assert named(sampler) == {s: [f"{s}/cat", f"{s}/dog"] for s in SPLITS}
    sizes = dict(zip(sampler.images.pack.class_names, np.diff(sampler.images.pack.start), strict=True))
    assert [sizes[f"{s}/cat"] for s in SPLITS] == [16, 4, 5]
    assert "with 2 classes the images are split" in caplog.text
    assert sampler.sample(Place(3, "test")).query.x.shape[:2] == (3, 2)
    pixels = {image.tobytes() for image in everything(sampler).numpy()}
    assert len(pixels) == 50, "each image is in one split"


def test_names_spelt_in_either_way_are_split_and_ordered_alike(tmp_path):
    names = ["Käfer", "Zebra", "Éléphant", "Eule", "Ñandú", "Ameise", "Öl", "Otter"]
    found = []
    for form in ("NFC", "NFD"):
        folder = made(tmp_path / form, [unicodedata.normalize(form, name) for name in names])
        found.append(own(folder, splits=USUAL))
    assert named(found[0]) == named(found[1])
    assert {unicodedata.normalize("NFC", name) for name in every(named(found[1]))} == set(names)


def test_a_name_spelt_in_both_ways_is_refused(tmp_path):
    folder = made(tmp_path / "set", [unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD")])
    with pytest.raises(ValueError, match="names that differ only in how they are spelt"):
        own(folder)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path):
    folder = made(tmp_path / "set", ["a", "b"])
    before = everything(opened(folder))
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "a/thumbs.DB", "a/._0.png", "b/Desktop.ini"):
        (folder / name).write_bytes(b"litter")
    (folder / "a" / "@eaDir").mkdir()
    (folder / "__MACOSX").mkdir()
    assert (everything(opened(folder)) == before).all()


def test_classes_with_too_few_images_are_left_out_with_a_count(tmp_path, caplog):
    folder = made(made(tmp_path / "set", ["a", "b", "c"], each=5).parent / "set", ["few", "fewer"], each=2)
    sampler = opened(folder, n_shot=1, n_query=2)
    assert named(sampler)["train"] == ["a", "b", "c"]
    assert "2 of 5 classes are left out, with fewer than the 3 images of a task: few, fewer" in caplog.text


def test_how_many_images_a_task_needs_moves_no_class_to_another_split(tmp_path):
    folder = made(tmp_path / "set", list("abcdefgh"), each=2)
    for c in "abcd":
        for i in range(2, 6):
            (folder / c / f"{i}.png").write_bytes(png(i))
    before = own(folder)
    after = named(own(folder, n_query=4))
    assert all(set(after[split]) <= set(found) for split, found in named(before).items())


def test_a_split_of_small_classes_says_what_they_lack(tmp_path):
    sampler = opened(made(tmp_path / "set", ["a", "b", "c"], each=2), n_query=5)
    with pytest.raises(ValueError, match=r"expected at least n_shot .* got 2 in a; lower"):
        sampler.sample(Place(1, "train"))


def test_sets_of_one_colour_are_an_error(tmp_path):
    for c in "ab":
        (tmp_path / "set" / c).mkdir(parents=True)
        Image.new("L", (8, 8), ord(c)).save(tmp_path / "set" / c / "0.png")
    with pytest.raises(ValueError, match="images that are each of one colour all over"):
        opened(tmp_path / "set")


def test_the_first_frames_and_a_strong_loss_of_detail_are_said(tmp_path, caplog):
    folder = made(tmp_path / "set", ["a"], size=64)
    frames = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8)) for i in range(3)]
    frames[0].save(folder / "a" / "8.gif", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING):
        made_of = everything(opened(folder, image_size=4))
    assert "the first frame or page is taken of set/a/8.gif" in caplog.text
    assert "5 images lose most of their detail, set/a/0.png from 64x64 to 4x4 and 4 more; a larger" in caplog.text
    assert np.array_equal(made_of[4, 0], frames[0].resize((4, 4), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("n_shot", [2, (1, 2)])
def test_queries_that_a_class_lacks_are_masked_if_asked_for(tmp_path, n_shot, caplog):
    folder = made(tmp_path / "set", ["large"], each=9)
    made(folder, ["small"], each=4)
    made(folder, ["tiny"], each=2)
    sampler = opened(folder, too_few="mask", n_shot=n_shot, n_query=5)
    assert "1 of 3 classes are left out, with fewer than the 3 images of a task: tiny" in caplog.text
    tasks = sampler.sample(Place(200, "train"))
    seen = Counter()
    for t in range(200):
        origin = tasks.origin[t][tasks.origin[t] >= 0].tolist()
        assert len(set(origin)) == len(origin)
        seen.update(origin)
        for part, of_small in ((tasks.support, None), (tasks.query, 2)):
            rows = slice(0, 4) if part is tasks.support else slice(4, None)
            small = tasks.origin[t, rows] >= 9
            assert torch.equal(part.mask[t], tasks.origin[t, rows] >= 0)
            assert of_small is None or int(small.sum()) == of_small
            assert part.y[t][small].unique().numel() == 1
    assert {row for row in seen if row >= 9} == {9, 10, 11, 12}
