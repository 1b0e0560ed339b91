"""Processes that a sweep starts: what they import, why they failed, and that they end when it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import venv
from functools import partial
from pathlib import Path

import pytest

import metabox
from metabox.cli.child import LOG, execute

CHECKOUT = Path(metabox.__file__).parents[1]
LISTS = "import sys\nfrom metabox.cli.child import execute\nsys.exit(execute(['list'], 'out'))\n"
EVIL = "open(__file__ + '.PWNED', 'w').close()\nraise ImportError('a file of the working directory was imported')\n"
TINY = """
tasks: {class_path: Glyphs, init_args: {n_way: 2, n_shot: 1, n_query: 1}}
learner: {class_path: CNP, init_args: {width: 8, backbone: {class_path: Flatten}}}
outer: {steps: 100000000, n_tasks: 2, validate_every: 10, n_validation: 2, precision: "32", accelerator: cpu}
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment without any package; it may be given some by paths in `.pth` files."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    return folder


def python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def packages_of(environment: Path) -> Path:
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.check_output([python_of(environment), "-I", "-c", asked], text=True).strip())


FINDER = f"""
import sys
from importlib.util import spec_from_file_location
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "metabox":
            return spec_from_file_location(name, {str(CHECKOUT / "metabox" / "__init__.py")!r})
sys.meta_path.append(Finder)
"""


@pytest.mark.parametrize("kind", ["installed", "path of a checkout", "finder of a checkout", "PYTHONPATH", "cwd"])
def test_a_child_imports_the_metabox_of_its_starter_and_nothing_from_the_working_directory(
    bare: Path, tmp_path: Path, kind: str
) -> None:
    packages, here, script = packages_of(bare), tmp_path / "here", tmp_path / "metabox-script"
    here.mkdir()
    script.write_text(LISTS)
    command, environment = [python_of(bare), script], {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    made = [packages / name for name in ("metabox", "own.pth", "own_finder.py")]
    evil = ["json", "argparse", "importlib", "signal", "subprocess", "hashlib", "pathlib", "ast", "inspect"]
    if kind == "installed":
        made[0].symlink_to(CHECKOUT / "metabox")
    elif kind == "path of a checkout":
        made[1].write_text(f"{CHECKOUT}\n")
    elif kind == "finder of a checkout":
        made[1].write_text("import own_finder\n")
        made[2].write_text(FINDER)
    elif kind == "PYTHONPATH":
        environment["PYTHONPATH"] = str(CHECKOUT)
    else:  # python -m metabox in a checkout, whose files are the user's own: only its children are looked at
        (here / "metabox").symlink_to(CHECKOUT / "metabox")
        command, evil = [python_of(bare), "-c", LISTS], ["argparse"]
    try:
        for name in evil if kind == "cwd" else [*evil, "metabox", "sitecustomize"]:
            (here / f"{name}.py").write_text(EVIL)
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        log = (here / "out" / LOG).read_text() if (here / "out" / LOG).exists() else ""
    finally:
        for path in made:
            path.unlink(missing_ok=True)
    assert done.returncode == 0, done.stderr + log
    assert "glyphs-5w1s-incontext" in log
    assert not list(here.glob("*.PWNED"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["list"], None),
        (["list", "--nothing"], "got --nothing"),
        (["no-such-command"], "got 'no-such-command'"),
    ],
)
def test_the_reason_of_a_failure_is_its_last_line(tmp_path: Path, arguments: list[str], reason: str | None) -> None:
    (tmp_path / LOG).write_text("metabox: error: of another time\n")
    got = execute(arguments, str(tmp_path))
    assert got is None if reason is None else reason in (got or "")
    assert "\n" not in (got or "")
    assert (tmp_path / LOG).read_text().startswith("metabox: error: of another time\n")


def test_a_log_that_is_a_link_or_a_folder_in_the_way_is_a_reason_too(tmp_path: Path) -> None:
    (tmp_path / LOG).symlink_to(tmp_path / "elsewhere")
    assert "expected a log of its own, got a symbolic link" in (execute(["list"], str(tmp_path)) or "")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "file").touch()
    assert "could not run in" in (execute(["list"], str(tmp_path / "file")) or "")


def test_a_process_that_was_killed_is_said_to_be(tmp_path: Path) -> None:
    got = execute(["list"], str(tmp_path), started=lambda process: process.kill())
    assert got == ("exit code 1, and nothing in its log" if os.name == "nt" else "ended by SIGKILL")


def processes_of(folder: Path) -> set[int]:
    """The numbers of the processes whose command line names the folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            named = entry.name.isdecimal() and os.fsencode(folder) in (entry / "cmdline").read_bytes()
        except OSError:  # it has ended in between
            continue
        found |= {int(entry.name)} if named else set()
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize(("number", "devices"), [(signal.SIGKILL, 2), (signal.SIGINT, 1)])
def test_a_sweep_that_ends_ends_its_trainings(tmp_path: Path, number: signal.Signals, devices: int) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "metabox", "sweep", str(tmp_path / "tiny.yaml"), "--seeds", "2", "--out", str(out)]
    command += ["--set", f"outer.devices={devices}"]
    try:
        with (tmp_path / "said").open("w") as said:
            # The tests may run in the background of a shell, which has its processes ignore SIGINT.
            heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, preexec_fn=heeding)
        while process.poll() is None and not list(out.glob("*/checkpoints/step-*")):
            time.sleep(0.05)
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert len(processes_of(out)) == 1 + devices
        process.send_signal(number)
        assert process.wait() in (-signal.SIGKILL, 130)
        while processes_of(out):  # ends well or not at all
            time.sleep(0.05)
    finally:
        for left in processes_of(out):
            os.kill(left, signal.SIGKILL)
        process.wait()
    assert len(list(out.iterdir())) == 1  # nor is the next one begun
    if number == signal.SIGINT:  # in good order
        assert "stopped after step" in next(out.glob(f"*/{LOG}")).read_text()
