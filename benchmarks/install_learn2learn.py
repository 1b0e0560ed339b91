"""Install learn2learn 0.2.0 into the Python that runs this: `.venv/bin/python benchmarks/install_learn2learn.py`.

Only MAML and ANIL need it. It is not an extra in pyproject.toml, because pip alone cannot install it: there is no
wheel, and the C files in its source archive are too old for Python 3.11. This script generates them again, with a
Cython in a folder of its own, and compiles them, which takes a C compiler and half a minute.

Two of its requirements are left out. qpth (for MetaOptNet) requires a solver that needs NumPy 1; gsutil is a program
that downloads one data set. torch, torchvision and NumPy stay at the installed versions.
"""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from pathlib import Path, PurePosixPath

VERSION = "0.2.0"
SHA256 = "69f1d7cb0d0a6be7a2c6ad8e83e2ebbe70fb05e51d61e45e63078b40c75ea419"
BUILD_TOOLS = ["cython>=3,<4", "setuptools<70", "wheel"]
LEFT_OUT = ["'gsutil',", "'qpth>=0.0.15',"]
STAYS = ["torch", "torchvision", "numpy"]


class Failed(Exception):
    """The error message, in one line."""


def run(what: str, *command: object, cwd: Path) -> None:
    """Run a command in a folder without untrusted modules; a failure is reported with its reason."""
    print(f"{what} ...", flush=True)
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        lines = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower() and not line.startswith("WARNING")]
        errors = errors or lines[-1:] or ["no message"]
        raise Failed(f"{what} failed: {' '.join(errors[:2])}")


def installed(package: str) -> str | None:
    """The version of a package in this Python, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def works() -> bool:
    # Not from the working directory, which Python searches first.
    check = [sys.executable, "-c", "import sys; sys.path = [*filter(None, sys.path)]; import learn2learn"]
    return installed("learn2learn") == VERSION and not subprocess.run(check, capture_output=True).returncode


def check_compiler() -> None:
    if os.name == "nt":  # setuptools knows where to look there
        return
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if not shutil.which(compiler):
        raise Failed(f"expected a C compiler, found no {compiler}; install gcc or clang, or name one in CC")
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        raise Failed("expected the headers of Python (Python.h), found none; install python3-dev")


def download(folder: Path) -> Path:
    """The source archive; pip checks its SHA-256 before opening it."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"learn2learn=={VERSION} --hash=sha256:{SHA256}\n")
    pip = (sys.executable, "-m", "pip", "download", "-q", "--retries", 1)
    chosen = ("--no-deps", "--no-binary", "learn2learn", "-d", folder, "-r", wanted)
    run("downloading learn2learn (pip needs a network)", *pip, *chosen, cwd=folder)
    return folder / f"learn2learn-{VERSION}.tar.gz"


def unpack(archive: Path, folder: Path) -> Path:
    """The package without its C files, and what setup.py reads; only regular files, none outside the folder."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, *parts = PurePosixPath(member.name).parts
            kept = parts and parts[0] in ("learn2learn", "setup.py", "README.md", "LICENSE")
            source = tar.extractfile(member) if kept and member.isfile() and ".." not in parts else None
            if source and not member.name.endswith(".c"):
                path = folder.joinpath(*parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read())
    setup = folder / "setup.py"
    text = setup.read_text(encoding="utf-8")
    for requirement in LEFT_OUT:
        if requirement not in text:
            raise Failed(f"expected {requirement} in the setup.py of learn2learn {VERSION}, found none")
        text = text.replace(requirement, "")
    setup.write_text(text, encoding="utf-8")
    return folder


def build(source: Path, tools: Path) -> Path:
    """The wheel, built by tools that are not installed into this Python."""
    venv.create(tools, with_pip=True)
    python = tools / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    run("installing the build tools", python, "-m", "pip", "install", "-q", "--retries", 1, *BUILD_TOOLS, cwd=tools)
    run("compiling", python, "setup.py", "-q", "bdist_wheel", "build_ext", cwd=source)
    return next((source / "dist").glob("*.whl"))


def main() -> None:
    if works():
        print(f"learn2learn {VERSION} is already installed")
        return
    check_compiler()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(unpack(download(folder), folder / "source"), folder / "tools")
        constraints = folder / "constraints.txt"
        constraints.write_text(
            "".join(f"{package}=={version}\n" for package in STAYS if (version := installed(package)))
        )
        run("installing", sys.executable, "-m", "pip", "install", "-q", "-c", constraints, wheel, cwd=folder)
    if not works():
        raise Failed("learn2learn is installed and cannot be imported; see `python -c 'import learn2learn'`")
    print(f"installed learn2learn {VERSION}")


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"install_learn2learn: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
