"""Configuration of Sphinx: `sphinx-build -W docs docs/_build`.

Lists of learners, data sets, recipes, checks, splits and results are not typed into the pages. In place of the comment
`<!-- fill: NAME -->` the function NAME below writes them from the package itself; further words are its arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import atlas as atlas_page  # noqa: E402
import notebook_pages  # noqa: E402
import results as results_page  # noqa: E402

import metabox  # noqa: E402
from metabox import discover  # noqa: E402

project = "metabox"
copyright = "the metabox authors"
release = version = metabox.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "figures"]
nitpicky = True
nitpick_ignore_regex = [  # names without an entry here
    ("py:.*", r"(?!metabox\.).*|metabox\..*\._\w+"),  # of other projects, and private ones
    ("py:.*", r"metabox\.(seeding\.Words|checks\.Function|ranges\.T)"),  # type variables
]
default_role = "code"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "metabox"
html_static_path = ["_static"]


def api() -> str:
    """An entry for each module of the package, with its public, documented names."""
    groups: dict[str, list[str]] = {}
    for path in sorted(discover.PACKAGE.rglob("*.py")):
        parts = path.relative_to(discover.PACKAGE).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            groups.setdefault(".".join(("metabox", *parts[:-1])), []).append(".".join(("metabox", *parts)))
    lines = []
    lazy = discover.lazy_packages()
    for package in sorted(groups, key=lambda name: (name != "metabox", name)):
        lines += [f"## {package}", ""]
        if package in lazy:
            names = sorted(discover.public_names(package, lazy[package]))
            lines += [f"`{package}` offers {', '.join(f'`{name}`' for name in names)}.", ""]
        for module in groups[package]:
            lines += [f"### {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:"]
            lines += ["   :show-inheritance:", "```", ""]
    return "\n".join(lines)


def learners() -> str:
    return _found("Learner")


def samplers() -> str:
    return _found("EpisodeSampler")


def backbones() -> str:
    return _found("Backbone")


def methods() -> str:
    """What each learner's class declares, and its phi, from the docstring of `infer`."""
    lines = ["| learner | targets | reads the support as | renaming classes | phi |", "| --- | --- | --- | --- | --- |"]
    for found in discover.subclasses("Learner"):
        made = found.load()
        phi = " ".join((inspect.getdoc(made.infer) or "").split()).partition("phi: ")[2].replace("|", "\\|")
        lines.append(
            f"| {{py:class}}`{found.name} <{found.module}.{found.name}>` | "
            f"{', '.join(kind.__name__ for kind in made.targets)} | "
            f"{'a sequence' if made.ordered else 'a set'} | "
            f"{'renames predictions' if made.label_equivariant else 'may change them'} | {phi} |"
        )
    return "\n".join(lines)


def weightings() -> str:
    return _found("Weighting")


def norms() -> str:
    """The kinds of normalisation, and what a result says about each."""
    from metabox.nn.norm import NORMS

    return "\n".join(f"- `{kind}`: {says}" for kind, says in NORMS.items() if kind != "none")


def recipes() -> str:
    """The name of each recipe, and its first line."""
    return "\n".join(f"- `{name}`: {discover.title(path)}" for name, path in discover.recipes().items())


def models() -> str:
    """The card of each model that comes with the package."""
    return "\n\n".join(f"## {name}\n\n{discover.card(path)}" for name, path in discover.models().items())


def checks() -> str:
    """What the conformance suite checks."""
    from metabox.testing import CHECKS

    return "\n".join(f"- {name.removeprefix('check_').replace('_', ' ')}" for name in CHECKS)


def splits() -> str:
    """The number of classes in each committed list."""
    lines = ["| protocol | train | val | test |", "| --- | --- | --- | --- |"]
    for path in sorted((discover.PACKAGE / "data" / "splits").glob("*.json")):
        lists = json.loads(path.read_text(encoding="utf-8"))
        counts = [f"{len(lists.get(split, [])):,}" for split in ("train", "val", "test")]
        lines.append(f"| {path.stem.replace('_', ' ')} | {' | '.join(counts)} |")
    return "\n".join(lines)


def results() -> str:
    return results_page.page(DOCS.parent / "benchmarks" / "results")


def atlas() -> str:
    """One line for each learner: published, others, ours, why."""
    return atlas_page.atlas(DOCS.parent / "benchmarks" / "results")


def claims() -> str:
    """One line for each claim."""
    return atlas_page.claims(DOCS.parent / "benchmarks" / "results")


def differences() -> str:
    """How the recipes with claims differ from the papers."""
    return atlas_page.differences(DOCS.parent / "benchmarks" / "results")


def speed() -> str:
    """The measurements of benchmarks/speed.py, a section for each part."""
    return results_page.parts(DOCS.parent / "benchmarks" / "results" / "speed.json")


def against() -> str:
    """This checkout compared with another, as measured by `benchmarks/speed.py --against`."""
    return results_page.parts(DOCS.parent / "benchmarks" / "results" / "against.json")


def scaling() -> str:
    """The model of benchmarks/scaling.py."""
    return results_page.parts(DOCS.parent / "benchmarks" / "results" / "scaling.json")


def malformed() -> str:
    """The calls of benchmarks/malformed.py."""
    return results_page.one(DOCS.parent / "benchmarks" / "results" / "malformed.json", "malformed")


def robustness() -> str:
    """The campaign of benchmarks/robustness.py."""
    return results_page.parts(DOCS.parent / "benchmarks" / "results" / "robustness.json")


def measured(file: str, name: str) -> str:
    """One table of a results file."""
    return results_page.one(DOCS.parent / "benchmarks" / "results" / f"{file}.json", name)


def chosen(*words: str) -> str:
    """Some rows and columns of one table of a results file."""
    return results_page.chosen(DOCS.parent / "benchmarks" / "results", *words)


def value(*words: str) -> str:
    """One number of a results file."""
    return results_page.value(DOCS.parent / "benchmarks" / "results", *words)


def exercise() -> str:
    """The learning curves of the exercise of CS330."""
    return results_page.exercise(DOCS.parent / "benchmarks" / "results")


FILLS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        api,
        learners,
        methods,
        weightings,
        backbones,
        norms,
        samplers,
        recipes,
        models,
        checks,
        splits,
        speed,
        against,
        scaling,
        robustness,
        malformed,
        measured,
        chosen,
        exercise,
        value,
        results,
        atlas,
        claims,
        differences,
    )
}


def _found(base: str) -> str:
    return "\n".join(
        f"- {{py:class}}`{found.name} <{found.module}.{found.name}>`: {found.summary}"
        for found in discover.subclasses(base)
    )


def fill(app: Any, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"<!-- fill: (\w+)(.*?) -->", lambda mark: FILLS[mark[1]](*shlex.split(mark[2])), source[0])


def always_read(app: Any, env: Any, *_: object) -> list[str]:
    """Pages with a fill, which depend on files that Sphinx does not watch."""
    return [page for page in env.found_docs if "<!-- fill:" in Path(env.doc2path(page)).read_text(encoding="utf-8")]


def list_fields(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Turn the lines `field: what it is` of a class into a list."""
    if what != "class" or not (fields := set(inspect.get_annotations(thing))):
        return
    written: list[str] = []
    inside = False
    for line in lines:
        names, colon, text = line.partition(": ")
        if colon and set(names.split(", ")) <= fields:
            written += [] if inside else [""]
            written.append(f"* **{names}**: {text}")
            inside = True
        elif inside and line.strip():
            written.append(f"  {line.strip()}")
        else:
            written.append(line)
            inside = False
    lines[:] = written


def no_generated_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Drop the docstring that `dataclass` or `NamedTuple` has generated, which repeats the signature."""
    if what == "class" and dataclasses.is_dataclass(thing) and lines and lines[0].startswith(f"{thing.__name__}("):
        lines.clear()


def no_plain_base(app: Any, domain: str, kind: str, content: Any) -> None:
    """Drop the base class `object`."""
    if kind == "class" and len(content) and content[0].astext() == "Bases: object":
        content.pop(0)


def no_routing(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the methods that scikit-learn adds to estimators; their text refers to its own pages."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def setup(app: Any) -> None:
    notebook_pages.setup(app)
    app.connect("object-description-transform", no_plain_base)
    app.connect("source-read", fill)
    app.connect("env-get-outdated", always_read)
    app.connect("autodoc-skip-member", no_routing)
    app.connect("autodoc-process-docstring", list_fields, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", no_generated_docstring, priority=300)
