"""The parser's error for a bad value, as one line: the option, what was expected, what it got, and the nearest name.

jsonargparse reports every nested type on the way to the value. This module follows its text down to the cause.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from typing import Any

from jsonargparse import ArgumentParser

from metabox import discover, gate

LONGEST = 100
ANYTHING = 500
FEW = 12
TYPE = re.compile(r"Type (?P<kind>\S.*?) expects a function or a callable class: (?P<rest>.*)", re.DOTALL)
UNION = re.compile(
    r"Does not validate against any of the Union subtypes\s+Subtypes: (?P<kinds>.*?)\n\s*Errors:(?P<start>\n\s*- )"
    r"(?P<rest>.*)\n\s*Given value type: .*?\n\s*Given value: (?P<got>.*)",
    re.DOTALL,
)
SIMPLE = re.compile(
    r"Expected (an? )?(<class '(int|float|str|bool|NoneType|list|tuple)'|typing|tuple with)|Not a valid subclass"
)
KEY = re.compile(r'Parser key "(?P<key>[^"]+)":\s*(?P<rest>.*)', re.DOTALL)
HELP = re.compile(r"(?P<option>--\S+\.help): (?P<rest>.*)", re.DOTALL)
CLASS = re.compile(r"Problem with given class_path '(?P<name>[^']*)':\s*(?P<rest>.*)", re.DOTALL)
DENIED = re.compile(r"Importing '([^']+)' is not allowed")
NO_PATH = re.compile(r"(?:Expected a dot import path string|Unexpected import path format): (?P<got>.*)", re.DOTALL)
NO_OPTION = re.compile(r"(?:Option|Key) '(?P<got>[^']+)' is not (?:accepted|expected)")
OF_CLASS = re.compile(r"Got value: Namespace\(.*?class_path='([^']+)'", re.DOTALL)
NO_SUBCLASS = re.compile(
    r"(?:Expected '(?P<got>[^']+)' to be a (?:subclass of|function that returns)|Import path (?:(?P<path>\S+) )?does "
    r"not correspond to a subclass of|Expected an import path corresponding to a|Not a valid subclass of) "
    r"(?P<kind><class '[^']+'>|\S+)",
)
NO_TYPE = re.compile(r"Expected an? (?P<kind>.+?)\.? Got value: (?P<got>.*?)(\. Got value: .*)?$", re.DOTALL)
NO_NAME = re.compile(r"Not of type Name: (?P<got>.*?) does not match", re.DOTALL)
NO_CONFIG = re.compile(r"Unable to load config '(?P<got>.*?)'\n", re.DOTALL)
NO_VALUE = re.compile(r"argument (?P<option>\S+): expected (?P<what>.*)")
NO_CHOICE = re.compile(r"argument (?P<option>\S+): invalid choice: (?P<got>.*) \(choose from (?P<known>.*)\)")
UNKNOWN = re.compile(r"unrecognized arguments: (?P<got>.*)", re.DOTALL)
OPTIONS_ALONE = re.compile(r"Dict must include a class_path|is abstract|Importing 'metabox\.EpisodeSampler'")


def explain(parser: ArgumentParser, text: str) -> str:
    """The one-line message for an error text of the parser."""
    if found := UNKNOWN.match(text):
        word = found["got"].split()[0]
        known = [option for action in parser._actions for option in action.option_strings]
        return f"expected a known option, got {shortened(found['got'])}{near(word.partition('=')[0], known)}"
    if found := NO_VALUE.match(text):
        what = found["what"].replace("one argument", "a value").replace("argument", "value")
        return f"expected {what} after {found['option']}, got none"
    if found := NO_CHOICE.match(text):
        return f"expected {found['option']} as one of {found['known']}, got {found['got']}"
    kind = ""
    if found := KEY.match(text):
        hints = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
        kind = _base(str(hints.get(found["key"])))
    return shortened(_cause(text, [], kind, ""), ANYTHING)


def near(name: str, known: Iterable[str]) -> str:
    """The end of a message that suggests the nearest known name; empty if none is close."""
    by_lower = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.65)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def shortened(value: Any, longest: int = LONGEST) -> str:
    """The value as text on one line, shortened."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else f"{text[:longest]}..."


def _cause(text: str, keys: list[str], kind: str, owner: str) -> str:
    """The innermost cause in a message.

    Args:
        text: the message, or the rest of it.
        keys: the nested options that lead there.
        kind: the base of the class that is expected there, if known.
        owner: the class that has the last option.
    """
    where = ".".join(keys) or "options"
    if found := KEY.match(text):
        return _cause(found["rest"], [*keys, found["key"]], "" if keys else kind, owner)
    if found := HELP.match(text):
        return _cause(found["rest"], [found["option"]], kind, owner)
    if found := CLASS.match(text):
        return _cause(found["rest"], keys, kind, found["name"])
    if found := TYPE.match(text):
        inner = OF_CLASS.findall(text)
        return _cause(found["rest"], keys, _base(found["kind"]), inner[0] if inner else owner)
    if found := UNION.match(text):
        errors = [error for error in found["rest"].split(found["start"]) if not SIMPLE.match(error)]
        errors.sort(key=lambda error: not DENIED.search(error))
        if errors:
            told = f"{errors[0]}. Got value: {found['got']}" if errors[0].startswith("Import path does") else errors[0]
            return _cause(told, keys, _base(found["kinds"]), owner)
        return f"expected {where} as {_plain(found['kinds'])}, got {shortened(found['got'])}"
    if OPTIONS_ALONE.search(text):
        return f"expected {where} as a class and its options, got options alone; name the class first: --{where} CLASS"
    if found := DENIED.match(text):
        return gate.unknown_class(found[1], f" for {where}")
    if found := NO_PATH.match(text):
        got = found["got"].strip()
        names = {known.name for known in discover.subclasses(kind)} if kind else set(gate.paths().values())
        mend = near(got, names) or (f"; there are {', '.join(sorted(names))}" if 0 < len(names) <= FEW else "")
        return f"expected {where} as {_one(kind)}, got {shortened(got)!r}{mend}"
    if found := NO_OPTION.search(text):
        inner = OF_CLASS.findall(text)
        owner = inner[-1] if inner else owner
        option = f"an option of {owner.rpartition('.')[2]}" if owner else "a known option"
        return f"expected {option} for {where}, got {found['got']!r}{near(found['got'], _arguments(owner))}"
    if found := NO_SUBCLASS.match(text):
        got = found["got"] or found["path"] or text.rpartition("Got value: ")[2]
        return f"expected {where} as {_one(_base(found['kind']) or kind)}, got {shortened(got)}, which is none"
    if found := NO_NAME.match(text):
        return f"expected {where} as the name of one folder, got {shortened(found['got'])!r}"
    if found := NO_CONFIG.match(text):
        return f"expected {where} as options and their values, got {shortened(found['got'])!r}"
    if found := NO_TYPE.match(text):
        return f"expected {where} as {_plain(found['kind'])}, got {shortened(found['got'])}"
    return f"{where}: {text}" if keys else text


def _base(kind: str) -> str:
    """The last class of metabox that a type hint names."""
    names = re.findall(r"metabox\.[\w.]*?(\w+)(?=['\],>]|$)", kind) or re.findall(r"^<class '(?:\w+\.)*(\w+)'>", kind)
    return names[-1] if names else ""


def _one(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}" if kind else "a class that a recipe may name"


def _plain(kind: str) -> str:
    """A type hint, or a list of them, in plain words."""
    kind = re.sub(r"<class '([\w.]*\.)?(\w+)'>", r"\2", kind.strip()).replace("NoneType", "null")
    if found := re.fullmatch(r"\[(.*)\]", kind, re.DOTALL):
        kind = " or ".join(re.split(r", (?![^\[]*\])", found[1]))
    return re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", kind)


def _arguments(path: str) -> set[str]:
    """The arguments of a class's constructor, including those that it passes on to its bases."""
    known = {f"{found.module}.{found.name}": found for found in discover.nameable()}
    found = next((f for p, f in known.items() if p.rpartition(".")[2] == path.rpartition(".")[2]), None)
    if not found:
        return set()
    classes = [c for c in inspect.getmro(found.load()) if c.__module__.startswith("metabox.")]
    return {name for c in classes for name in inspect.signature(c).parameters} - {"kwargs", "spec", "n_params"}
