# mypy: ignore-errors
# Wrong types are what these calls are about.
"""The malformed calls of `benchmarks/malformed.py`, one function for each kind of entry point."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from constructors import Made, classes, made_of
from made_up import SHORT, made, opened

import metabox
from metabox import learners as methods
from metabox.checks import hints, shown
from metabox.data import readers, safe_pickle
from metabox.episodes import Episodes, Examples
from metabox.evaluation import evaluate
from metabox.export import export, load_exported
from metabox.learners.base import Learner
from metabox.memorisation import memorisation
from metabox.multitask import DWA
from metabox.multitask.transfer import delta_percent, table
from metabox.nn.backbones import Conv4
from metabox.targets import Bars, Binary, Classes, Part, Parts, Reals, TaskSpec
from metabox.targets.parts import join_parts, split_parts
from metabox.tasks import Glyphs, LinearFunctions, Sinusoids
from metabox.tasks.place import Place
from metabox.testing import SPECS, build, make_episodes
from metabox.testing.options import bad_values, options_of


class Call(NamedTuple):
    """A malformed call, and what it is called in the list of those that were not answered well."""

    name: str
    make: Callable[[], object]
    arguments: bool = False
    """Whether it is the name or the number of the arguments that is wrong."""


def constructors(work: Path) -> Iterator[Call]:
    """Every option of every public class, with values that its hint does not allow; names and numbers of arguments."""
    for name, cls in classes().items():
        made = made_of(cls)
        for option in options_of(cls):
            if _set_by_itself(made, option.name):
                continue
            for value in bad_values(option.hint):
                told = f"{name}({option.name}={shown(value)})"
                yield Call(told, partial(cls, **made.required | {option.name: value}))
        if _knows_its_arguments(cls):
            yield Call(f"{name}(no_such_option=1)", partial(cls, **made.required, no_such_option=1), arguments=True)
        own = inspect.signature(cls).parameters.values()
        if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own):
            yield Call(f"{name}()", cls, arguments=True)
    yield from (Call(f"{words}", make) for words, make in TOGETHER.items())


def _set_by_itself(made: Made, name: str) -> bool:
    """An option of a base that a class sets itself: to say it too is Python's own error."""
    return made.cls.__name__ in ("Sinusoids", "Steps") and name == "dim"


def _knows_its_arguments(cls: Any) -> bool:
    return cls.__init__ is not object.__init__ and not issubclass(cls, tuple)


REALS, IMAGES = SPECS["reals"], SPECS["classes of images"]

TOGETHER: dict[str, Callable[[], object]] = {
    "InContext, heads that do not divide the width": lambda: methods.InContext(REALS, width=10, heads=4),
    "TNPD, heads that do not divide the width": lambda: methods.TNPD(REALS, width=10, heads=4),
    "ANP, heads that do not divide the width": lambda: methods.ANP(REALS, width=10, heads=4),
    "ACNP, heads that do not divide the width": lambda: methods.ACNP(REALS, width=10, heads=4),
    "CAML, heads that do not divide the width": lambda: methods.CAML(SPECS["classes of vectors"], width=10, heads=4),
    "GPICL, an odd width": lambda: methods.GPICL(REALS, width=9, heads=3),
    "Interleaved, heads that do not divide the width": lambda: methods.Interleaved(REALS, width=10, heads=4),
    "MANN, more heads than rows": lambda: methods.MANN(REALS, rows=2, heads=3),
    "SNAIL without attention": lambda: methods.SNAIL(REALS, attention=()),
    "ConvCNP, an even kernel": lambda: methods.ConvCNP(TaskSpec((1,), Reals(1)), kernel=4),
    "ConvCNP, no domain": lambda: methods.ConvCNP(TaskSpec((1,), Reals(1)), domain=(1, 1)),
    "ConvCNP of images": lambda: methods.ConvCNP(IMAGES),
    "ProtoNet of reals": lambda: methods.ProtoNet(REALS),
    "HyperNetwork, too many poolings": lambda: methods.HyperNetwork(IMAGES, layers=9),
    "HyperTransformer, too many poolings": lambda: methods.HyperTransformer(IMAGES, layers=9),
    "MMoE without a descriptor": lambda: methods.MMoE(replace(SPECS["named tasks"], descriptor_size=0)),
    "LSTM, a backbone of images": lambda: methods.LSTM(REALS, backbone=Conv4),
    "CNP, a backbone that makes none": lambda: methods.CNP(REALS, backbone=lambda shape: 3),
    "Parts of one name": lambda: Parts((Part("a", Reals(1)), Part("a", Reals(1)))),
    "Part of parts": lambda: Part("a", Parts((Part("b", Reals(1)),))),
    "Part without a name": lambda: Part("", Reals(1)),
    "Part of bars": lambda: Parts((Part("a", Bars(1)),)),
    "Glyphs of too many images": lambda: Glyphs(n_way=10**6, n_query=10**6),
    "Glyphs, fewer names than classes": lambda: Glyphs(n_way=5, names=3),
    "Sinusoids, low above high": lambda: Sinusoids(low=2, high=1),
    "Sinusoids, max_points below n_support": lambda: Sinusoids(n_support=5, max_points=3),
    "LinearFunctions, sparsity above dim": lambda: LinearFunctions(dim=2, sparsity=3),
    "OuterLoop, an option of another optimizer": lambda: metabox.OuterLoop(momentum=0.5),
    "OuterLoop, step without decay_every": lambda: metabox.OuterLoop(schedule="step"),
    "OuterLoop, fsdp on one device": lambda: metabox.OuterLoop(strategy="fsdp"),
    "OuterLoop, spawn": lambda: metabox.OuterLoop(strategy="ddp_spawn"),
}
"""Options that are senseless together."""


def calls(work: Path) -> Iterator[Call]:
    """adapt, predict and stream of every learner."""
    for name, cls in classes().items():
        if not name.startswith("Learner."):
            continue
        try:
            spec = made_of(cls).required["spec"]
            learner = build(cls, spec)
        except ImportError:  # an optional package is not here
            continue
        for words, call in _of_learner(learner, spec):
            yield Call(f"{name[8:]}, {words}", call)
        if issubclass(cls, Learner) and isinstance(IMAGES.target, cls.targets) and name != "Learner.ConvCNP":
            try:
                seeing = build(cls, IMAGES)
            except ValueError:
                continue
            for words, call in _of_images(seeing):
                yield Call(f"{name[8:]} of images, {words}", call)


def _of_learner(learner: Learner, spec: TaskSpec) -> Iterator[tuple[str, Callable[[], object]]]:
    episodes = make_episodes(spec)
    s, z, x = episodes.support, episodes.descriptor, episodes.query.x
    phi = learner.adapt(s, z)
    one = next(iter(phi))
    is_classes = spec.target.n_classes is not None
    gaps = ("of one feature less", "NaN") if learner.as_described(x * torch.nan).isfinite().all() else ()

    def supports() -> Iterator[tuple[str, Any]]:
        yield from (("a tuple", (s.x, s.y)), ("a list", [s]), ("None", None), ("a tensor", s.x), ("a dict", vars(s)))
        yield from (("episodes", episodes), ("arrays", s.x.numpy()), ("a number", 3))
        yield "x of one feature less", replace(s, x=s.x[..., :-1])
        yield "x of one axis more", replace(s, x=s.x[..., None])
        yield "x of one axis less", replace(s, x=s.x[..., 0])
        for dtype in (
            torch.float16,
            torch.bfloat16,
            torch.int32,
            torch.int64,
            torch.bool,
            torch.complex64,
            torch.uint8,
        ):
            yield f"x in {dtype}", replace(s, x=s.x.to(dtype))
        yield "x with NaN", replace(s, x=s.x * torch.nan)
        yield "x with infinity", replace(s, x=s.x * torch.inf)
        yield "x elsewhere", s.to("meta")
        if is_classes:
            yield "labels above", replace(s, y=s.y + spec.target.size)
            yield "labels below", replace(s, y=s.y - 1)
            yield "labels one-hot", replace(s, y=torch.nn.functional.one_hot(s.y, spec.target.size).float())
        else:
            yield "labels of classes", replace(s, y=s.y[..., 0].long())
            yield "labels too wide", replace(s, y=torch.cat([s.y, s.y], -1))
            yield "labels in float16", replace(s, y=s.y.half())
            yield "labels infinite", replace(s, y=s.y + torch.inf)

    for words, support in supports():
        if words.removeprefix("x ").removeprefix("with ") in gaps:  # a table's, which it allows
            continue
        yield f"adapt({words})", partial(learner.adapt, support, z)
        if words in ("a tuple", "x in torch.float16", "x of one feature less", "labels above"):
            yield f"stream({words})", partial(learner.stream, support, z)
    size = max(1, spec.descriptor_size)
    for words, descriptor in (
        ("a list", [[0.0] * size] * 3),
        ("too wide", torch.zeros(3, size + 1)),
        ("of other tasks", torch.zeros(2, size)),
        ("of one axis", torch.zeros(size)),
        ("whole numbers", torch.zeros(3, size, dtype=torch.int64)),
        ("float16", torch.zeros(3, size).half()),
        ("NaN", torch.full((3, size), torch.nan)),
        ("a word", "left"),
    ):
        yield f"adapt(descriptor {words})", partial(learner.adapt, s, descriptor)
    for words, labels in (
        ("a list", [[True]] * 3),
        ("floats", torch.ones(3, 3)),
        ("of other tasks", torch.ones(2, 3, dtype=torch.bool)),
        ("of one axis", torch.ones(3, dtype=torch.bool)),
        ("without a class", torch.zeros(3, 3, dtype=torch.bool)),
        ("too many or none asked for", torch.ones(3, 999, dtype=torch.bool)[:, : 999 if learner.most_classes else 0]),
        ("words", "all"),
    ):
        yield f"adapt(classes {words})", partial(learner.adapt, s, z, labels)
    for words, wrong in (
        ("empty", {}),
        ("None", None),
        ("a list", list(phi.values())),
        ("the tensor", phi[one]),
        ("lists", {name: part.tolist() for name, part in phi.items()}),
        ("a name less", {name: part for name, part in phi.items() if name != one}),
        ("a name more", {**phi, "more": phi[one]}),
        ("other names", {f"{name}.": part for name, part in phi.items()}),
        ("another learner's", {"nothing": torch.zeros(3, 2, 2)}),
        ("too wide", {name: torch.cat([part, part], -1) if part.ndim > 1 else part for name, part in phi.items()}),
        ("an axis more", {name: part[..., None] for name, part in phi.items()}),
        ("of no number a task", {name: part[:, None].flatten(1)[:, :0] for name, part in phi.items()}),
        ("of other tasks", {name: part[:2] for name, part in phi.items()}),
        ("of various tasks", {name: part[: 1 + i] for i, (name, part) in enumerate({"": x, **phi}.items())}),
        ("elsewhere", {name: part.to("meta") for name, part in phi.items()}),
    ):
        if not (isinstance(wrong, dict) and _shapes(wrong) == _shapes(phi) and words != "elsewhere"):
            yield f"predict(phi {words})", partial(learner.predict, wrong, x)
    for words, query in (
        ("a list", x.tolist()),
        ("None", None),
        ("examples", episodes.query),
        ("a word", "x"),
        ("of one feature less", x[..., :-1]),
        ("of one axis less", x[0]),
        ("of one axis more", x[None]),
        ("of other tasks", x[:2]),
        ("float16", x.half()),
        ("whole numbers", x.long()),
        ("bytes", x.byte()),
        ("NaN", x * torch.nan),
        ("elsewhere", x.to("meta")),
        ("an array of words", np.array([["a"]])),
    ):
        if words not in gaps:
            yield f"predict(x {words})", partial(learner.predict, phi, query)


def _shapes(phi: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a phi: a change that keeps them, of a phi without numbers, is none."""
    return {name: tuple(getattr(part, "shape", ())) for name, part in phi.items()}


def _of_images(learner: Learner) -> Iterator[tuple[str, Callable[[], object]]]:
    episodes = make_episodes(IMAGES)
    s, x = episodes.support, episodes.query.x
    phi = learner.adapt(s)
    for words, change in (
        ("floats to 255", lambda image: image.float()),
        ("standardised", lambda image: (image.float() - 128) / 64),
        ("float64 to 255", lambda image: image.double()),
        ("int64", lambda image: image.long()),
        ("float16", lambda image: image.half() / 255),
        ("channels last", lambda image: image.movedim(2, -1)),
        ("flat", lambda image: image.flatten(2)),
        ("three channels", lambda image: image.repeat(1, 1, 3, 1, 1)),
    ):
        yield f"adapt({words})", lambda change=change: learner.adapt(replace(s, x=change(s.x)))
        yield f"predict({words})", lambda change=change: learner.predict(phi, change(x))


def batches(work: Path) -> Iterator[Call]:
    """Examples, Episodes, Place, and the functions that take them apart."""
    x, y, mask = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    good = Examples(x=x, y=y)
    for name, value in (
        *(("x", value) for value in (x.tolist(), None, "x", 3, x[0, 0], np.array(["a"]), x.to("meta"), object())),
        *(("y", value) for value in (y.tolist(), None, y[:1], y[0], y.int(), y.float(), y.bool(), y[..., None], "y")),
        *(("y", value) for value in (y.numpy().astype(np.int32), np.array([[None] * 3] * 2), x[..., None], y[:, :2])),
        *(("mask", value) for value in (mask.tolist(), mask.float(), mask[0], mask[:1], mask[..., None], True, "all")),
        ("mask", mask.to("meta")),
    ):
        yield Call(f"Examples({name}={shown(value)})", partial(Examples, **{"x": x, "y": y} | {name: value}))
    for name in ("support", "query"):
        for value in (
            None,
            (x, y),
            [good],
            x,
            {"x": x, "y": y},
            good[:1],
            replace(good, x=x[..., :2]),
            good.to("meta"),
        ):
            given = {"support": good, "query": good} | {name: value}
            yield Call(f"Episodes({name}={shown(value)})", partial(Episodes, **given))
    for name in ("descriptor", "classes", "oracle", "origin", "task"):
        for value in ([[1.0]], 3, "a", torch.zeros(1, 1), torch.zeros(2, 2, 2), np.array([None]), torch.zeros(9)):
            given = {"support": good, "query": good, name: value}
            yield Call(f"Episodes({name}={shown(value)})", partial(Episodes, **given))
    for device in ("nowhere", 1.5, None, "", [0]):
        yield Call(f"Examples.to({device!r})", partial(good.to, device))
        yield Call(f"Episodes.to({device!r})", partial(Episodes(support=good, query=good).to, device))
    parts = (Part("a", Classes(3)), Part("b", Reals(2)))
    for name, make in {
        "split_parts, too few columns": lambda: split_parts(parts, x[..., :1]),
        "join_parts of nothing": lambda: join_parts(parts, {}),
        "join_parts of unknown names": lambda: join_parts(parts, {"c": x}),
        "join_parts of another shape": lambda: join_parts(parts, {"a": x, "b": x}),
        "quantile(2)": lambda: Bars(1).quantile(torch.zeros(1, 1, 100), 2),
        "union of kinds": lambda: Reals(1).union(Classes(2)),
        "union of specs": lambda: TaskSpec((1,), Reals(1)).union(TaskSpec((2,), Reals(1))),
        "scored_by of another size": lambda: TaskSpec((1,), Reals(1)).scored_by(Bars(2)),
        "check_episodes of another kind": lambda: TaskSpec((1,), Reals(1)).check_episodes(
            make_episodes(SPECS["binary labels"])
        ),
        "delta_percent of other tasks": lambda: delta_percent({"a": 1}, {"b": 1}, "nll"),
        "delta_percent of zero": lambda: delta_percent({"a": 1}, {"a": 0}, "nll"),
        "table of other seeds": lambda: table({"a": [1, 2]}, {"a": [1]}, "nll"),
        "Binary, labels of 2": lambda: Binary(1).check(torch.full((1, 1, 1), 2.0), torch.ones(1, 1, dtype=torch.bool)),
    }.items():
        yield Call(name, make)


def sampling(work: Path) -> Iterator[Call]:
    """`sample` of samplers that need no data."""
    for name, cls in classes().items():
        made = made_of(cls)
        if not name.startswith("EpisodeSampler.") or cls.__name__ in NEED_DATA:
            continue
        tasks = cls(**made.required)
        for value in (3, None, "test", (4, "test"), {"n_tasks": 4}, Place):
            yield Call(f"{name[15:]}.sample({shown(value)})", partial(tasks.sample, value))
        yield Call(f"{name[15:]}.sample()", tasks.sample, arguments=True)
        for option in options_of(Place):
            for value in bad_values(option.hint)[:6]:
                words = f"{name[15:]}.sample(Place({option.name}={shown(value)}))"
                make = lambda tasks=tasks, given={"n_tasks": 2, option.name: value}: tasks.sample(Place(**given))  # noqa: E731
                yield Call(words, make)


NEED_DATA = (
    *("Alphabets", "CIFARFS", "CUB", "CelebA", "CensusIncome", "ClassFolder", "FC100", "MailFolder", "MiniImageNet"),
    *("NYUv2", "Omniglot", "TieredImageNet", "FromLearn2Learn"),
)


def functions(work: Path) -> Iterator[Call]:
    """evaluate, run and the other public functions: every argument with values that its hint does not allow."""
    spec, tasks = SPECS["classes of images"], Glyphs(n_way=3, n_query=1, image_size=16)
    learner = methods.ProtoNet(spec).eval()
    usual: dict[Any, dict[str, Any]] = {
        evaluate: {"learner": learner, "tasks": tasks, "n_tasks": 2},
        memorisation: {"learner": learner, "tasks": tasks, "n_tasks": 2},
        make_episodes: {"spec": spec},
        metabox.run: {"tasks": tasks, "learner": methods.ProtoNet, "out": work / "run"},
        metabox.load_run: {"folder": work},
        export: {"learner": learner, "episodes": make_episodes(spec), "folder": work / "served"},
        load_exported: {"folder": work / "served"},
    }
    for function, given in usual.items():
        name = function.__name__
        for argument, hint in hints(function).items():
            for value in bad_values(hint):
                yield Call(f"{name}({argument}={shown(value)})", partial(function, **given | {argument: value}))
        yield Call(f"{name}(no_such_argument=1)", partial(function, **given, no_such_argument=1), arguments=True)
        yield Call(f"{name}()", function, arguments=True)
    wide = Glyphs(n_way=5, n_query=1, image_size=16)
    outer = metabox.OuterLoop(steps=1, n_tasks=3, accumulate=2)
    for words, make in {
        "evaluate, more classes than it was built for": lambda: evaluate(methods.CNP(spec), wide, n_tasks=2),
        "evaluate, tasks of another kind": lambda: evaluate(learner, Sinusoids(), n_tasks=2),
        "evaluate, an objective that makes none": lambda: evaluate(learner, tasks, objective=lambda made: 3),
        "memorisation of reals": lambda: memorisation(methods.CNP(TaskSpec((1,), Reals(1))), Sinusoids(), n_tasks=2),
        "run, tasks that cannot be shared out": lambda: metabox.run(tasks, methods.CNP, outer, out=work / "run"),
        "run, a learner of other targets": lambda: metabox.run(Sinusoids(), methods.ProtoNet, out=work / "run"),
        "run, a learner that makes none": lambda: metabox.run(tasks, lambda spec: 3, out=work / "run"),
        "run, evaluation of another kind": lambda: metabox.run(
            tasks, methods.CNP, evaluation=Sinusoids(), out=work / "run"
        ),
        "run, another target": lambda: metabox.run(tasks, methods.CNP, target=Reals(1), out=work / "run"),
        "run, a weighting of one loss": lambda: metabox.run(tasks, methods.CNP, weighting=DWA, out=work / "run"),
        "load_run of nothing": lambda: metabox.load_run(work / "nothing"),
        "load_run of a file": lambda: metabox.load_run(__file__),
        "load_run, a plugin that is not there": lambda: metabox.load_run(work, plugins=["no_such_plugin"]),
        "export in training": lambda: export(methods.CNP(spec).train(), make_episodes(spec), work / "served"),
        "load_exported of strangers": lambda: load_exported(work),
        "load_exported of nothing": lambda: load_exported(work, trusted=True),
    }.items():
        yield Call(words, make)


HEADER = b"\x93NUMPY\x01\0v\0{'descr': KIND, 'fortran_order': False, 'shape': (9,), }"


def files(work: Path) -> Iterator[Call]:
    """What reads files: contents that are something else."""
    contents = {
        "nothing": b"",
        "text": b"a,b\nc\n",
        "zeros": bytes(4096),
        "half a PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x08\0\0\0\x08\x08\0\0\0\0",
        "half a JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF",
        "half a zip": b"PK\x03\x04" + bytes(40),
        "half an array": b"\x93NUMPY\x01\0v\0{'descr': '<f8', 'fortran_order': False, 'shape': (9,), }".ljust(128)
        + b"\n",
        "an array of objects": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127),
        "a pickle that calls": b"cos\nsystem\n(S'true'\ntR.",
        "latin-1": "\xe9\xff".encode("latin-1"),
    }
    for words, content in contents.items():
        path = work / f"{words.replace(' ', '-')}.bin"
        path.write_bytes(content)
        images = made(work / words / "images", ["a", "b"])
        (images / "a" / "0.png").write_bytes(content)
        yield Call(f"ClassFolder, an image of {words}", partial(_sampled, images))
        for read in (readers.load_array, readers.load_arrays, readers.open_archive, safe_pickle.safe_load):
            yield Call(f"{read.__name__}({words})", partial(read, path))
    for words in ("latin-1", "an array of objects"):
        yield Call(f"read_text({words})", partial(readers.read_text, work / f"{words.replace(' ', '-')}.bin"))
    for read in (readers.load_array, readers.load_arrays, readers.open_archive, readers.read_text):
        yield Call(f"{read.__name__}(a folder)", partial(read, work))


def _sampled(images: Path) -> Episodes:
    return opened(images).sample(Place(1, "train"))


def commands(work: Path) -> Iterator[Call]:
    """The command line."""
    from metabox.cli.main import main

    recipe = "glyphs-5w1s-incontext"
    train = ["train", recipe, "--out", str(work / "command"), *SHORT]
    words = [
        *(["fly"], ["train"], ["train", "no-such-recipe"], ["evaluate"], ["evaluate", str(work)], ["list", "planets"]),
        *(["report", str(work)], ["reproduce"], ["reproduce", recipe, "--seeds", "0"], ["sweep", "no-such-recipe"]),
        *(["sweep", recipe, "--jobs", "a"], ["sweep", recipe, "--set", "x"], ["reproduce", recipe, "--seeds", "a"]),
        *(["evaluate", str(work / "nothing")], ["report"], ["sweep"], ["sweep", recipe, "--jobs", "0"]),
        *([*train, *more] for more in _options()),
    ]
    if main(["train", recipe, "--out", str(work / "run"), *SHORT]):
        raise RuntimeError("a short run did not end well")
    for command, bad in (
        (
            "evaluate",
            ["--split tst", "--split", "--test_seed a", "--test_seed 1.5", "--n_test 0", "--evaluation.n_way 0"],
        ),
        ("evaluate", ["--learner.width 0", "--evaluation.n_way a", "--evaluation.wobble 9", "--no_such_option 1"]),
        ("report", ["--n_tasks a", "--n_tasks", "--n_task 3", "no-such-run", "--n_tasks -1"]),
    ):
        words += [[command, str(work / "run"), *line.split()] for line in bad]
    for line in words:
        yield Call(f"metabox {' '.join(line)}", partial(main, line))


def _options() -> Iterator[list[str]]:
    numbers = ("0", "-1", "1.5", "nan", "a", "", "[]", "null", "true", "1e99")
    for option in ("outer.steps", "outer.n_tasks", "learner.width", "learner.depth", "learner.heads", "n_test"):
        yield from (["--" + option, value] for value in numbers)
    for option in ("outer.lr", "outer.clip", "tasks.wobble"):
        yield from (["--" + option, value] for value in ("-1", "nan", "inf", "a", "", "[]", "null", "[1,2]"))
    for option in ("tasks.n_way", "tasks.n_shot", "tasks.n_query"):
        yield from (
            ["--" + option, value] for value in ("0", "-1", "[2,1]", "[1]", "[1,2,3]", "a", "1.5", "null", "[a,b]")
        )
    for option in ("outer.optimizer", "outer.schedule", "outer.accelerator"):
        yield from (["--" + option, value] for value in ("none", "0", "", "[]"))
    for option in ("learner", "tasks", "objective", "weighting", "target", "learner.backbone", "evaluation"):
        yield from (["--" + option, value] for value in ("os.system", "Nothing", "3", "metabox.OuterLoop", "''"))
    yield from (
        ["--no_such_option", "1"],
        ["--learner.widht", "3"],
        ["--seed", "a"],
        ["--seed", "1.5"],
        ["--name", "a/b"],
    )
    yield from (["--config", "no-such-file.yaml"], ["--claim.value", "a"], ["--outer", "3"], ["--outer.steps"])


KINDS: dict[str, Callable[[Path], Iterator[Call]]] = {
    "constructors": constructors,
    "calls": calls,
    "batches": batches,
    "sampling": sampling,
    "functions": functions,
    "files": files,
    "commands": commands,
}
