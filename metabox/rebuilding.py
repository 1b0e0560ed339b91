"""A learner as plain data, and back: its class and the arguments of its constructor, through the gate of recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import ArgumentError
from torch import Tensor, nn
from torch.nn.modules import module as registration

from metabox import gate
from metabox.config import check_described
from metabox.from_run import FromRun
from metabox.learners.base import Learner
from metabox.nn.backbones import Backbone, initial_weights
from metabox.targets import TaskSpec
from metabox.tensors import hash_of

Content = dict[str, Any]


def described(learner: Learner) -> tuple[Content, dict[str, Tensor]]:
    """The learner as `class_path` and `init_args`, and its weights. A backbone of another run becomes part of it.

    Backbones whose weights are those that come with the package are `packaged`, path to hash, and have none here.

    Raises:
        ValueError: if an argument has no description, such as a lambda.
    """
    config = {name: value for name, value in learner.config.items() if name != "spec"}
    check_described(learner=config)
    weights = dict(learner.state_dict())
    inner = {}
    for path, module in learner.named_modules(remove_duplicate=False):
        if isinstance(module, FromRun):
            start = f"{path}."
            weights = {name.replace(f"{start}inner.", start): tensor for name, tensor in weights.items()}
            inner[module.config["run"]] = module.inner.config
    packaged = {path: hash_of(known, {}) for path, known in _packaged(learner)}
    weights = {name: part for name, part in weights.items() if not name.startswith(tuple(f"{p}." for p in packaged))}
    return _as_classes(config, inner) | ({"packaged": packaged} if packaged else {}), weights


def _packaged(learner: Learner) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Paths of the backbones whose weights are still those that come with the package, and these."""
    for path, module in learner.named_modules():
        if isinstance(module, Backbone) and (known := module.packaged()):
            held = module.state_dict()
            if held.keys() == known.keys() and all(
                held[name].cpu().equal(known[name].to(held[name].dtype)) for name in held
            ):
                yield path, dict(known)


def _with_packaged(form: Learner, packaged: Any, weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The weights of a file, and those that it names by hash."""
    found = dict(weights)
    for path, digest in packaged.items() if isinstance(packaged, dict) else [(packaged, None)]:
        module = dict(form.named_modules()).get(path) if isinstance(path, str) else None
        known = module.packaged() if isinstance(module, Backbone) else None
        if not known or digest != hash_of(dict(known), {}):
            raise ValueError(
                f"expected a file that names weights of this metabox in {where}, got {str(path)[:80]!r} with others; "
                "use the version of metabox that wrote it"
            )
        found |= {f"{path}.{name}": tensor for name, tensor in known.items()}
    return found


def _as_classes(value: Any, inner: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_as_classes(part, inner) for part in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") == f"{FromRun.__module__}.{FromRun.__qualname__}" and value["run"] in inner:
        found = inner[value["run"]]
        return _as_classes({name: part for name, part in found.items() if name != "x_shape"}, inner)
    if "class" not in value:
        raise ValueError(f"expected arguments that are classes or plain values, got {str(value)[:200]}")
    arguments = {name: _as_classes(part, inner) for name, part in value.items() if name != "class"}
    return {"class_path": value["class"], "init_args": arguments}


def rebuilt(content: Any, spec: TaskSpec, weights: Mapping[str, Tensor], where: str, dtype: Any) -> Learner:
    """The learner in evaluation mode, from untrusted content.

    Nothing is called but constructors of metabox and of plugins, and nothing is allocated before the sizes of all
    parameters are known to be those of the weights.

    Raises:
        ValueError: if the content names anything else, or the weights are not those of this learner.
    """
    content = dict(content) if isinstance(content, dict) else content
    packaged = content.pop("packaged", {}) if isinstance(content, dict) else {}
    make = _constructor(content, where)
    with initial_weights(False):
        with torch.device("meta"), _at_most(weights, where):
            form = _made(make, spec)
        weights = _with_packaged(form, packaged, weights, where)
        expected = {name: tuple(tensor.shape) for name, tensor in form.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if expected != got:
            differ = sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name))
            raise ValueError(f"expected the weights of {type(form).__name__} in {where}, got others: {differ[:5]}")
        with torch.random.fork_rng(devices=[]):  # the initial weights are replaced
            learner = _made(make, spec)
    if dtype == "float64":
        learner = learner.double()
    learner.load_state_dict(dict(weights))
    return learner.eval().requires_grad_(False)


def _made(make: Callable[[TaskSpec], Learner], spec: TaskSpec) -> Learner:
    with gate.building("the learner"):
        return make(spec)


def _constructor(content: Any, where: str) -> Callable[[TaskSpec], Learner]:
    gate.check_content(content, where, {path: name for path, name in gate.paths().items() if name != FromRun.__name__})
    parser = gate.RecipeParser(exit_on_error=False, allow_abbrev=False, parser_mode="recipe")
    parser.add_argument("--learner", type=Callable[[TaskSpec], Learner], required=True)
    try:
        with gate.closed():
            config = parser.parse_object({"learner": content})
            gate.check_named(config)
        make: Callable[[TaskSpec], Learner] = parser.instantiate(config).learner
    except (ArgumentError, RecursionError) as error:
        raise ValueError(f"expected the description of a learner in {where}, got something else: {error}") from error
    return make


@contextmanager
def _at_most(weights: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """Inside, a module that has more parameters or buffers than these weights, or no end of modules, is refused."""
    most, seen = 2 * sum(tensor.numel() for tensor in weights.values()) + 10_000_000, [0, 0]
    most_modules = 20 * len(weights) + 2_000

    def count(_: nn.Module, name: str, part: Any) -> None:
        if isinstance(part, nn.Module):
            seen[1] += 1
        elif isinstance(part, Tensor):
            seen[0] += part.numel()
        if seen[0] > most or seen[1] > most_modules:
            raise ValueError(f"expected a learner of the size of its weights in {where}, got a far larger one")

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
