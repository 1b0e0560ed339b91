"""Runs the sources docs/notebooks/*.py and writes each with its outputs to docs/notebooks/NAME.ipynb.

    OMP_NUM_THREADS=1 python docs/make_notebooks.py                 # all, at most four minutes of one core each
    OMP_NUM_THREADS=1 python docs/make_notebooks.py 1-first-steps

A source is a Python file in the percent format of jupytext. Needs `pip install -e ".[notebooks]"`. A test runs the
sources with small numbers in their first cell, and compares the committed notebooks with them.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

from metabox.files import write_text
from metabox.training.environment import collect_environment

SOURCES = Path(__file__).parent / "notebooks"
MOST_SECONDS = 240  # of one core
SETUP = """\
import warnings; warnings.filterwarnings("ignore", message="IProgress")
import matplotlib_inline.backend_inline as backend
backend.set_matplotlib_formats("svg", metadata={"Date": None})
import matplotlib.pyplot as plt
plt.rcParams |= {"svg.hashsalt": "metabox", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
plt.rcParams["figure.facecolor"] = "white"
"""


def processor_seconds() -> float:
    """Of the children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def made(source: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; progress bars are left out.

    Raises:
        ValueError: if it took too long.
    """
    notebook = jupytext.read(source)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    before = processor_seconds()
    with tempfile.TemporaryDirectory() as folder:  # where its runs go
        NotebookClient(
            notebook, timeout=None, coalesce_streams=True, resources={"metadata": {"path": folder}}
        ).execute()
    seconds = processor_seconds() - before
    if seconds > MOST_SECONDS:
        raise ValueError(f"expected at most {MOST_SECONDS} processor seconds of {source.name}, got {seconds:.0f}")
    del notebook.cells[0]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same at every run
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.execution_count = None
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    facts = collect_environment()
    kept = {name: facts[name] for name in ("metabox", "torch", "cpu", "threads", "git_commit", "git_tree")}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel, "metabox": {"processor_seconds": round(seconds), **kept}}
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="without .py; all by default")
    args = parser.parse_args()
    known = {path.stem: path for path in sorted(SOURCES.glob("*.py"))}
    if unknown := set(args.names) - set(known):
        parser.error(f"expected names among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    os.environ |= {"JUPYTER_PLATFORM_DIRS": "1", "PYTHONWARNINGS": "ignore"}
    for name in args.names or known:
        notebook = made(known[name])
        write_text(known[name].with_suffix(".ipynb"), nbformat.writes(notebook) + "\n")
        print(f"{name}: {notebook.metadata['metabox']['processor_seconds']} processor seconds", flush=True)


if __name__ == "__main__":
    main()
