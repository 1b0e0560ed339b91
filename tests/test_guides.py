"""The commands of the guides that start processes: run as they are printed, they answer what is printed below them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metabox.cli.main import main

GUIDES = Path(__file__).parents[1] / "docs" / "guides"
METABOX = [sys.executable, "-m", "metabox"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(guide: str, kind: str) -> list[str]:
    return [
        text for found, text in BLOCK.findall((GUIDES / f"{guide}.md").read_text(encoding="utf-8")) if found == kind
    ]


def session(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that is printed below it."""
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    return [(command, output) for command, output in found]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of `metabox serve characters`, on a free port."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    (command,) = [c for c, _ in session("".join(blocks("serving", "console"))) if c.startswith("metabox serve")]
    words = shlex.split(command, comments=True)[1:]
    with subprocess.Popen([*METABOX, *words, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield re.findall(r"http://([\d.:]+)/", server.stdout.readline())[0]
        server.terminate()


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="needs bash and curl")
def test_the_requests_of_the_guide_on_serving_get_the_answers_that_it_prints(tmp_path: Path, address: str) -> None:
    drawings, *more = blocks("serving", "python")
    client = next(text for text in more if text.startswith("# client.py"))
    talk = [pair for text in blocks("serving", "console") for pair in session(text)]
    shell = "".join(f"{command}\n" for command, _ in talk if re.match(r"\w+(\(\) \{|=)", command))
    asked = [(command, json.loads(output)) for command, output in talk if command.startswith("curl ")]
    assert len(asked) == 3
    python(drawings, tmp_path)
    names: dict[str, str] = {}
    for command, printed in asked:
        for one, here in {"127.0.0.1:8000": address, **names}.items():
            command = command.replace(one, here)
        done = subprocess.run(["bash", "-c", shell + command], cwd=tmp_path, capture_output=True, text=True, check=True)
        answer = json.loads(done.stdout)
        if "id" in printed:
            names[printed["id"]] = answer.pop("id")
            del printed["id"]
        assert flat(answer) == pytest.approx(flat(printed), abs=1e-3)
    promised = re.findall(r"^print\(.*\)  # ([^,]+|\{.*\})(?:, which .*)?$", client, re.MULTILINE)
    assert python(client.replace("127.0.0.1:8000", address), tmp_path).splitlines() == promised
    assert len(promised) == 3


def python(text: str, folder: Path) -> str:
    """What a block prints, in a process of its own."""
    return subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=True).stdout


def flat(answer: Any, name: str = "") -> dict[str, Any]:
    """The values of nested JSON by their paths, for a comparison of numbers up to rounding."""
    if not isinstance(answer, (dict, list)):
        return {name: answer}
    inner = answer.items() if isinstance(answer, dict) else enumerate(answer)
    return {key: value for step, part in inner for key, value in flat(part, f"{name}/{step}").items()}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_two_processes_of_the_guide_end_with_the_score_of_one_which_it_prints(tmp_path: Path) -> None:
    talk = [pair for text in blocks("processes", "console") for pair in session(text)]
    printed = [(command, output) for command, output in talk if "result: " in output]
    assert [command.split()[0] for command, _ in printed] == ["torchrun", "metabox"]
    said = []
    for command, output in printed:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=with_programs(tmp_path),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        said.append(numbers(done.stdout))
        assert said[-1] == pytest.approx(numbers(output), rel=0.02)
    assert said[0] == pytest.approx(said[1], rel=1e-3)


def numbers(output: str) -> list[float]:
    """The scores of a run in what `metabox train` prints, up to the number of tasks."""
    (line,) = re.findall(r"^sinusoid-cnp: (.*) \(", output, re.MULTILINE)
    return [float(number) for number in re.findall(r"\d+\.\d+", line)]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(("code", "requeued"), [(130, "77\n"), (0, ""), (2, "")])
def test_the_job_of_the_guide_is_queued_again_only_if_it_was_stopped(tmp_path: Path, code: int, requeued: str) -> None:
    (job,) = [text for text in blocks("processes", "bash") if "#SBATCH" in text]
    stand_ins = {
        "srun": f'printf "%s\\n" "$@" > asked; exit {code}',
        "scontrol": '[ "$1" = requeue ] && echo "$2" > requeued',
    }
    environment = with_programs(tmp_path, **stand_ins) | {"SLURM_JOB_ID": "77"}
    assert subprocess.run(["bash", "-c", job], cwd=tmp_path, env=environment).returncode == code
    assert (tmp_path / "requeued").exists() == bool(requeued)
    assert not requeued or (tmp_path / "requeued").read_text() == requeued
    program, *arguments = (tmp_path / "asked").read_text().splitlines()
    assert program == "metabox"
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--print_config"])
    assert stopped.value.code == 0


def with_programs(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which `metabox` and `torchrun` are those of this Python, and others are shell scripts."""
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    scripts |= {"metabox": f'exec {shlex.join(METABOX)} "$@"', "torchrun": f'exec {shlex.join(launcher)} "$@"'}
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    return os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
