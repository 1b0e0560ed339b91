"""How much disk the packages take that metabox needs, and how much of it is libraries for GPUs.

    python benchmarks/install_size.py

Counts the installed files of every package that metabox requires, directly or through others, without extras.
"""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from metabox.files import write_json
from metabox.training.environment import collect_environment

JOBS = [{"writes": "install-size.json", "tier": "quick", "minutes": 1}]
GPU = re.compile(r"nvidia-|cuda-|triton")
RESULT = Path(__file__).parent / "results" / "install-size.json"


def required(name: str) -> dict[str, Distribution]:
    """The package and all that it requires, by name."""
    found: dict[str, Distribution] = {}
    todo = [(name, "")]
    while todo:
        wanted, extra = todo.pop()
        name = re.sub(r"[-_.]+", "-", wanted).lower()
        try:
            package = found.get(name) or distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        if name in found and not extra:
            continue
        found[name] = package
        for line in package.requires or ():
            other = Requirement(line)
            if other.marker is None or other.marker.evaluate({"extra": extra}):
                todo += [(other.name, asked) for asked in (other.extras or {""})]
    return found


def size(package: Distribution) -> int:
    paths = (Path(str(package.locate_file(file))) for file in package.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    sizes = {name: size(package) for name, package in required("metabox-torch").items()}
    rows = [
        {"package": name, "mb": round(taken / 1e6, 1), "for_gpus": bool(GPU.match(name))}
        for name, taken in sorted(sizes.items(), key=lambda item: -item[1])
    ]
    total, gpus = sum(sizes.values()), sum(taken for name, taken in sizes.items() if GPU.match(name))
    facts = {"packages": len(rows), "gb": round(total / 1e9, 2), "gb_for_gpus": round(gpus / 1e9, 2)}
    write_json(RESULT, {"environment": collect_environment(), "total": facts, "largest": rows[:20]})
    print(facts)


if __name__ == "__main__":
    main()
