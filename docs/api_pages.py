"""The pages of the API, docs/reference/NAME.md: one for each package of metabox, made by walking it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from metabox import discover

BLOCK = re.compile(r"^```(?:python|py|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LARGEST = 45_000
"""Characters of source code on a page, so that a page stays below 200 kB."""

TOPICS = {
    "metabox": "What everything is built on, and what is imported most",
    "metabox.learners": "Methods; the classes themselves are on pages of their own",
}


def modules() -> dict[str, list[str]]:
    """The public modules of each package."""
    groups: dict[str, list[str]] = {}
    for path in sorted(discover.PACKAGE.rglob("*.py")):
        parts = path.relative_to(discover.PACKAGE).with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            groups.setdefault(".".join(("metabox", *parts[:-1])), []).append(".".join(("metabox", *parts)))
    return dict(sorted(groups.items()))


def split(names: list[str]) -> list[list[str]]:
    """The modules of a package in their order, cut into pages."""
    pages: list[list[str]] = [[]]
    held = 0
    for name in names:
        size = file_of(name).stat().st_size
        if held + size > LARGEST and pages[-1]:
            pages.append([])
            held = 0
        pages[-1].append(name)
        held += size
    return pages


def file_of(module: str) -> Path:
    return discover.PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")


def type_aliases() -> dict[str, str]:
    """The types of options as a signature shows them: `int` for a `Count`, whose range the code checks."""
    found: dict[str, str] = {}
    classes: set[str] = set()
    for path in discover.PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= dict(re.findall(r"^([A-Z]\w*) = Annotated\[(int|float)\b", text, re.MULTILINE))
        classes |= set(re.findall(r"^class (\w+)", text, re.MULTILINE))
    found |= {f"{name}OrRange": f"{kind} | tuple[{kind}, {kind}]" for name, kind in found.items()}
    return {name: kind for name, kind in found.items() if name not in classes}


def about(package: str) -> str:
    """The first sentence of a package."""
    path = discover.PACKAGE.parent.joinpath(*package.split("."), "__init__.py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else None
    return " ".join((text or TOPICS.get(package, "")).partition("\n\n")[0].split())


def topics() -> str:
    """A line for each package, with its pages."""
    lines = []
    for package, names in modules().items():
        pages = split(names)
        links = ", ".join(
            f"[{title(part)}](reference/{page_name(package, number)}.md)" for number, part in enumerate(pages)
        )
        said = about(package)
        lines.append(f"- **{package}**{': ' + said if said else ''} {links}")
    return "\n".join(lines)


def title(names: list[str]) -> str:
    first, last = (name.rpartition(".")[2] for name in (names[0], names[-1]))
    return first if first == last else f"{first} to {last}"


def page_name(package: str, number: int) -> str:
    return package + (f"-{number + 1}" if number else "")


def public() -> dict[str, str]:
    """Every public name, to its module."""
    return {
        name: module
        for package, names in discover.lazy_packages().items()
        for name, module in discover.public_names(package, names).items()
    }


@cache
def examples() -> dict[str, str]:
    """Every public name that code in a page uses, to the first such page; last comes examples.md."""
    docs = Path(__file__).parent
    made = ("methods", "reference", "_build")
    pages = [path for path in sorted(docs.rglob("*.md")) if path.relative_to(docs).parts[0] not in made]
    pages.sort(key=lambda path: (path.stem == "examples", path.parent.name != "guides"))
    code = {path: "".join(BLOCK.findall(path.read_text(encoding="utf-8"))) for path in pages}
    found = {}
    for name in public():
        used = (path for path, text in code.items() if re.search(rf"\b{name}\b", text))
        if path := next(used, None):
            found[name] = path.relative_to(docs).with_suffix("").as_posix()
    return found


@cache
def recipe_with(name: str) -> str | None:
    """A recipe that names a class."""
    named = re.compile(rf"class_path: {name}\b")
    found = (recipe for recipe, path in discover.recipes().items() if named.search(path.read_text(encoding="utf-8")))
    return next(found, None)


def page(package: str, names: list[str]) -> str:
    lines = [f"# {package}: {title(names)}", "", about(package), ""]
    lazy = discover.lazy_packages().get(package)
    homes = discover.public_names(package, lazy) if lazy else {}
    if homes:
        lines += [f"`{package}` offers {', '.join(f'`{name}`' for name in sorted(homes))}.", ""]
    own_pages: dict[str, list[str]] = {}
    for found in discover.subclasses("Learner"):
        own_pages.setdefault(found.module, []).append(found.name)
    for module in names:
        lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:"]
        lines += [f"   :exclude-members: {', '.join(own_pages[module])}"] if module in own_pages else []
        lines += ["   :show-inheritance:", "```", ""]
        lines += [f"{name}: [a page of its own](../methods/{name}.md).\n" for name in own_pages.get(module, ())]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """The pages of the API, by name."""
    return {
        page_name(package, number): page(package, part)
        for package, names in modules().items()
        for number, part in enumerate(split(names))
    }
