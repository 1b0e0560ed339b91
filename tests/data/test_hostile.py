"""A stranger's file does nothing: it is refused in one line or read, in bounded time and memory, and never run."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import GOOD, HOSTILE, PWNED, fake_ghostscript
from hostile_images import read_images

import metabox
from metabox.data.decode import FORMATS, open_image

LIMITED = """
import resource, runpy, sys, torch
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_every_hostile_file_is_refused_by_name_or_read_and_none_runs_crashes_or_takes_long(tmp_path: Path) -> None:
    path = f"{fake_ghostscript(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    table = Path(__file__).parents[1].joinpath("hostile.py")
    paths = os.pathsep.join(map(str, (Path(metabox.__file__).parents[1], table.parent)))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(table)],
        env={**os.environ, "PATH": path, "PYTHONPATH": paths, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = {line["name"]: line for line in lines}
    wrong = {}
    for name, case in (HOSTILE | GOOD).items():
        got = results.get(
            name, {"outcome": f"crashed or not reached, {done.returncode}", "seconds": 0, "message": None}
        )
        fits = got["outcome"] in ("read", "refused") if case.says is None else got["outcome"] == "refused"
        if not fits or got["seconds"] > 30 or not re.search(case.says or "", got["message"] or "", re.S):
            wrong[name] = got
    assert not wrong, json.dumps(wrong, indent=1)[:5000] + done.stderr[-1000:]
    assert len(HOSTILE) > 150
    assert not (tmp_path / PWNED).exists(), "Ghostscript was started"


def test_the_false_ghostscript_would_be_noticed(tmp_path: Path) -> None:
    subprocess.run([fake_ghostscript(tmp_path) / "gs"], check=True, capture_output=True)
    assert (tmp_path / PWNED).exists()


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.startswith("folder/")])
def test_what_is_no_file_is_named_before_anything_is_opened(tmp_path: Path, name: str, monkeypatch) -> None:
    HOSTILE[name].make(tmp_path)
    if name in ("folder/folder for a file", "folder/file of a terabyte", "folder/file of the kernel"):
        return  # those are told by other means
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("something was opened"))
    with pytest.raises(ValueError, match=f"expected files and folders in .*{HOSTILE[name].says}"):
        read_images(tmp_path)


READERS = {
    "Image.open": "data/decode.py",
    "np.load": None,
    "numpy.load": None,
    "np.loadtxt": None,
    "np.genfromtxt": None,
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "pickle._Unpickler": "data/safe_pickle.py",
    "zipfile.ZipFile": "data/readers.py",
    "tarfile.open": None,
    "csv.reader": "data/readers.py",
    "csv.DictReader": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "torch.export.load": "export.py",
}


def test_each_kind_of_file_is_opened_in_one_place() -> None:
    package, found = Path(metabox.__file__).parent, set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in READERS:
                found.add((name, path.relative_to(package).as_posix()))
    assert {(name, place) for name, place in found if READERS[name] != place} == set()
    assert {name for name, _ in found} == {name for name, place in READERS.items() if place}


def test_no_format_that_starts_another_program_is_decoded() -> None:
    assert not {"EPS", "WMF", "FPX", "MIC", "PSD", "GBR", "FITS", "HDF5", "GRIB", "BUFR"} & set(FORMATS)
    with pytest.raises(ValueError, match="no PNG, JPEG, GIF, BMP, TIFF, WEBP, AVIF or PPM, or a damaged one"):
        open_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
