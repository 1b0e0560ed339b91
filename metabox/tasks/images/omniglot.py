"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015, MIT licence)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from metabox.config import Unpack
from metabox.data.pack import ClassFiles, open_pack
from metabox.data.preprocessing import Preprocessing
from metabox.data.readers import name_some
from metabox.data.root import CLASS_LISTS, Files, FolderFiles, ZipFiles, data_root, how_to_name_a_root
from metabox.data.stored import StoredImages
from metabox.files import read_json
from metabox.ranges import Count
from metabox.tasks.nway import NWayKShot, NWayOptions

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
FOLDERS = ("omniglot", "omniglot-py")


class Omniglot(NWayKShot):
    """Omniglot, as few-shot tasks: 28x28 grey images, ink 255 on 0. Downloaded if it is not found.

    Two protocols, with the alphabets as groups and with committed lists of characters:

    * `vinyals`: 1,028 / 172 / 423 characters for train / val / test, after Vinyals et al. 2016
      ("Matching networks for one shot learning"), whose published results count every character four times,
      rotated by 0, 90, 180 and 270 degrees, in all three splits (as do those of Santoro et al. 2016, "Meta-learning
      with memory-augmented neural networks"). `rotations: false` keeps only the upright characters.
    * `lake`: the background alphabets for train, the evaluation alphabets for test (659 characters), the
      division of Lake et al. 2015 ("Human-level concept learning through probabilistic program induction").
      It has no validation set, so 5 of the 30 background alphabets are held out for it, the last ones by
      the blake2b hash of their names: 781 / 183 / 659 characters.
    * `lake-whole`: all 30 background alphabets for train (964 characters), for a last training after every choice was
      made on `lake`. It has no validation characters.

    The 105x105 one-bit drawings are shrunk by the mean over each pixel's box (3 or 4 pixels to a side): a grey
    level is the share of ink there, so no stroke is lost between samples, nor does it ring as under a wider filter.

    Args:
        split: the protocol, "vinyals", "lake" or "lake-whole".
        rotations: count every character four times, rotated.
        image_size: side of the images in pixels.
        data_root: folder that holds `omniglot/` or `omniglot-py/`; by default METABOX_DATA.

    Raises:
        ValueError: at the first use, if the data can be neither found nor downloaded, or are incomplete.
    """

    def __init__(
        self,
        split: Literal["vinyals", "lake", "lake-whole"] = "vinyals",
        rotations: bool = True,
        image_size: Count = 28,
        data_root: str | None = None,
        **kwargs: Unpack[NWayOptions],
    ) -> None:
        super().__init__(**kwargs)
        self.split = split
        self.rotations = rotations
        self.image_size = image_size
        self.data_root = data_root

    def load(self) -> StoredImages:
        parts = _find(data_root(self.data_root))
        key = ("omniglot", self.image_size, [part.stamp() for part in parts.values()])
        pack = open_pack("omniglot", key, lambda: _characters(parts), self.preprocessing)
        listed = read_json(CLASS_LISTS / f"omniglot_{self.split.removesuffix('-whole')}.json")
        if self.split == "lake-whole":
            listed |= {"train": [*listed["train"], *listed["val"]], "val": []}
        return StoredImages(pack, listed, self.rotations)

    @property
    def preprocessing(self) -> Preprocessing:  # type: ignore[override]  # of this size
        return Preprocessing(1, self.image_size, "box", inverted=True)


def _find(root: Path) -> dict[str, Files]:
    """The two parts, as zip archives or folders; downloaded if they are not found."""
    found = _look(root)
    if found is None:
        _download(root)
        found = _look(root)
    if found is None:
        raise ValueError(f"expected Omniglot under {root} after downloading it, found nothing; {_layout()}")
    return found


def _look(root: Path) -> dict[str, Files] | None:
    for folder in FOLDERS:
        found: dict[str, Files] = {}
        for part in CHARACTERS:
            if (archive := root / folder / f"{part}.zip").is_file():
                found[part] = ZipFiles(archive)
            elif (tree := root / folder / part).is_dir():
                found[part] = FolderFiles(tree)
        if len(found) == len(CHARACTERS):
            return found
    return None


def _layout() -> str:
    return (
        "put images_background.zip and images_evaluation.zip (github.com/brendenlake/omniglot), or the folders "
        "images_background/<Alphabet>/<characterNN>/*.png extracted from them, into "
        f"{FOLDERS[0]}/ under the data root, and {how_to_name_a_root()}. "
        "Without data or network, `metabox train glyphs-5w1s-incontext` trains on made-up glyphs"
    )


def _download(root: Path) -> None:
    from torchvision.datasets import Omniglot as Download  # slow to import, and rarely needed

    try:
        root.mkdir(parents=True, exist_ok=True)
        for background in (True, False):
            Download(str(root), background=background, download=True)
    except Exception as error:  # the network and the disk can fail in many ways
        raise ValueError(
            f"expected Omniglot under {root}, found none, and could not download it ({error}); {_layout()}"
        ) from error


def _characters(parts: dict[str, Files]) -> list[ClassFiles]:
    """All characters, named as in the split files: `images_background/<Alphabet>/<characterNN>`."""
    found: list[ClassFiles] = []
    wrong = []
    for part, files in parts.items():
        drawings: dict[str, list[str]] = {}
        for name in files.names:
            if name.endswith(".png"):
                full = name if name.startswith(f"{part}/") else f"{part}/{name}"
                drawings.setdefault(full.rpartition("/")[0], []).append(name)
        wrong += [f"{len(v)} drawings in {k}" for k, v in sorted(drawings.items()) if len(v) != DRAWINGS]
        if len(drawings) != CHARACTERS[part]:
            wrong.append(f"{len(drawings)} characters in {part} instead of {CHARACTERS[part]}")
            wrong += [f"no {name}" for name in sorted(_known(part) - set(drawings))]
        found += [ClassFiles(k, "/".join(k.split("/")[1:-1]), files, v) for k, v in drawings.items()]
    if wrong:
        raise ValueError(
            f"expected {' + '.join(f'{n} characters in {part}' for part, n in CHARACTERS.items())}, "
            f"{DRAWINGS} drawings each, got {name_some(wrong)}; get the archives again"
        )
    return found


def _known(part: str) -> set[str]:
    splits = read_json(CLASS_LISTS / "omniglot_vinyals.json")
    return {name for names in splits.values() for name in names if name.startswith(f"{part}/")}
