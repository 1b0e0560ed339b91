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

import api_pages  # noqa: E402
import atlas as atlas_page  # noqa: E402
import generated  # noqa: E402
import leaderboards as leaderboards_page  # noqa: E402
import learner_pages  # noqa: E402
import mathematics  # noqa: E402
import notebook_pages  # noqa: E402
import results as results_page  # noqa: E402

import metabox  # noqa: E402
from metabox import discover  # noqa: E402

project = "metabox"
copyright = "the metabox authors"
release = version = metabox.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["mathematics", "searching", "accessible"]
exclude_patterns = ["_build", "figures"]
nitpicky = True
nitpick_ignore_regex = [  # names without an entry here
    ("py:.*", r"(?!metabox\.).*|metabox\..*\._\w+"),  # of other projects, and private ones
    ("py:.*", r"metabox\.(seeding\.Words|checks\.Function|ranges\.T)"),  # type variables
]
default_role = "code"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_typehints_format = "short"
autodoc_type_aliases = api_pages.type_aliases()
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "metabox"
html_static_path = ["_static"]
templates_path = ["_templates"]
html_css_files = ["site.css"]
html_js_files = ["tables.js"]
html_favicon = "_static/icon.svg"
html_use_index = html_domain_indices = False  # the search finds names
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": False}


def learners() -> str:
    return _found("Learner")


def samplers() -> str:
    return _found("EpisodeSampler")


def backbones() -> str:
    return _found("Backbone")


def overview() -> str:
    return learner_pages.overview()


def family() -> str:
    return learner_pages.family()


def not_exported() -> str:
    """The learners that ONNX cannot express."""
    return learner_pages.not_exported()


def notation() -> str:
    return mathematics.notation()


def topics() -> str:
    """The pages of the API."""
    return api_pages.topics()


def numbers() -> str:
    """The tables of benchmarks/readme.py."""
    import readme

    return readme.tables()


def install_size() -> str:
    """What an installation takes."""
    from manifest import result

    content = result("install-size.json")
    total = content["total"]
    return (
        "By default pip takes PyTorch with the libraries for NVIDIA's GPUs. "
        f"On {content['environment']['platform']} that is {total['gb']:.1f} GB in {total['packages']} packages, "
        f"of which {total['gb_for_gpus']:.1f} GB are for GPUs (`python benchmarks/install_size.py`)."
    )


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


def leaderboards() -> str:
    """A table for each exam, and error against time."""
    return leaderboards_page.page(DOCS.parent / "benchmarks" / "results")


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


def sequences(command: str) -> str:
    """The table of `benchmarks/sequences.py COMMAND`."""
    return results_page.sequences(DOCS.parent / "benchmarks" / "results", command)


def streams() -> str:
    """Streams of Omniglot, whole recipes."""
    return results_page.streams(DOCS.parent / "benchmarks" / "results")


FILLS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        learners,
        overview,
        family,
        not_exported,
        notation,
        topics,
        numbers,
        install_size,
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
        streams,
        sequences,
        value,
        results,
        leaderboards,
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


def plain_types(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Drop the range of a number from its type; the code checks it."""

    def plain(text: str | None) -> str | None:
        plainer = re.sub(r"(?:~?typing\.)?Annotated\[(\w+), [^\]]*\]", r"\1", text or "")
        return None if text is None else re.sub(r"TypeAliasForwardRef\('(.*?)'\)", r"\1", plainer)

    return plain(signature), plain(returned)


def deviations(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Mark the paragraph that lists how a learner differs from its paper."""
    lines[:] = [re.sub(r"^(Deviations[^:]*):", r"**\1:**", line) if what == "class" else line for line in lines]


def link_example(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Below a public name, the first page whose code uses it."""
    short = name.rpartition(".")[2]
    if what not in ("class", "function") or api_pages.public().get(short) != name.rpartition(".")[0]:
        return
    if page := api_pages.examples().get(short):
        lines += ["", f"Example: :doc:`/{page}`.", ""]
    elif recipe := api_pages.recipe_with(short):
        lines += ["", f"Example: the recipe `{recipe}`.", ""]


def no_routing(app: Any, what: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leave out the methods that scikit-learn adds to estimators; their text refers to its own pages."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def make_pages(app: Any) -> None:
    """Write the pages of learners and of the API, which are not committed."""
    generated.write(DOCS / "methods", learner_pages.pages())
    generated.write(DOCS / "reference", api_pages.pages())


SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
WORD = re.compile(r'<span class="(?:pre|w|n|p|o|k|m|default_value)">([^<]*)</span>')


def lighter(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Drop the elements around each word of a signature and titles that repeat a link, a sixth of the site."""
    if "body" in context:
        body = re.sub(r'<span class="(?:pre|w|p|n)">([^<]*)</span>', r"\1", context["body"])
        body = SIGNATURE.sub(lambda sig: WORD.sub(r"\1", WORD.sub(r"\1", sig[0])), body)
        context["body"] = re.sub(r' title="(?:metabox\.[\w.]+|Link to this \w+)"', "", body)


def own_branch(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Let the navigation open only the branch of its page: open everywhere, it is a fifth of the site."""
    tree = context["toctree"]
    context["toctree"] = lambda **options: tree(**{**options, "collapse": True})


def no_copies(app: Any, error: Exception | None) -> None:
    """Drop the pictures that Sphinx has copied to `_images` too, and what only debuggers of the theme read."""
    for source_map in (app.outdir / "_static").rglob("*.map"):
        source_map.unlink()
    for picture in (app.outdir / "_images").glob("*"):
        (app.outdir / "_static" / picture.name).unlink(missing_ok=True)


def setup(app: Any) -> None:
    notebook_pages.setup(app)
    app.connect("builder-inited", make_pages)
    app.connect("html-page-context", lighter)
    app.connect("html-page-context", own_branch, priority=100)  # before the theme
    app.connect("build-finished", no_copies)
    app.connect("object-description-transform", no_plain_base)
    app.connect("source-read", fill)
    app.connect("env-get-outdated", always_read)
    app.connect("autodoc-skip-member", no_routing)
    app.connect("autodoc-process-signature", plain_types)
    app.connect("autodoc-process-docstring", deviations, priority=300)
    app.connect("autodoc-process-docstring", list_fields, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", link_example, priority=600)  # after napoleon
    app.connect("autodoc-process-docstring", no_generated_docstring, priority=300)
