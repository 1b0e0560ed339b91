"""Recipes of all kinds that need no data files, for against.py: kind, recipe, options that make a step small."""

from __future__ import annotations

GLYPHS = ["--tasks", "Glyphs", "--evaluation", "Glyphs"]
WIDE = "omniglot-5w1s-protonet-cpu"  # one task of 60 ways
FIVE = "omniglot-5w1s-snail-cpu"  # eight tasks of five ways


def _glyphs(recipe: str, learner: str = "", *more: str) -> tuple[str, str, list[str]]:
    return "images", recipe, [*GLYPHS, *(["--learner", learner] if learner else []), *more]


def _gaussian_process(learner: str, *more: str) -> tuple[str, str, list[str]]:
    """On a recipe that says little, for what the published ones train has changed between versions."""
    tasks = ["--tasks", "GaussianProcess", "--tasks.oracle", "none", "--evaluation", "GaussianProcess"]
    return "vectors and functions", "sinusoid-cnp", [*tasks, "--outer.n_tasks", "16", "--learner", learner, *more]


RECIPES: dict[str, tuple[str, str, list[str]]] = {
    "ProtoNet": _glyphs(WIDE),
    "MatchingNet": _glyphs("omniglot-5w1s-matching-cpu"),
    "RelationNet": _glyphs(FIVE, "RelationNet"),
    "CNP": _glyphs("omniglot-5w1s-cnp-cpu"),
    "VERSA": _glyphs("omniglot-5w1s-versa-cpu"),
    "InContext": ("images", "glyphs-5w1s-incontext", []),
    "SNAIL": _glyphs(FIVE),
    "HyperNetwork": _glyphs(FIVE, "HyperNetwork"),
    "CAML": _glyphs(FIVE, "CAML"),
    "TNPD": _glyphs(FIVE, "TNPD"),
    "GPICL": _glyphs(FIVE, "GPICL"),
    "CNAPs": _glyphs(FIVE, "CNAPs"),
    "MAML": _glyphs("omniglot-5w1s-maml-cpu", "", "--outer.n_tasks", "2"),
    "linear InContext": ("vectors and functions", "linear-5d-incontext", []),
    "linear Interleaved": (
        "vectors and functions",
        "linear-20d-interleaved",
        ["--learner.width", "64", "--learner.depth", "3"],
    ),
    "GP CNP": _gaussian_process("CNP", "--learner.backbone", "MLP", "--learner.backbone.depth", "3"),
    "GP ANP": _gaussian_process("ANP", "--objective", "LatentLoss"),
    "GP TNPD": _gaussian_process("TNPD"),
    "GP ConvCNP": ("vectors and functions", "gp-rbf-convcnp-cpu", []),
    "sinusoid CNP": ("vectors and functions", "sinusoid-cnp", []),
    "recall LSTM": ("recurrent", "recall-lstm", []),
    "recall MANN": ("recurrent", "recall-mann", ["--outer.n_tasks", "16"]),
    "stream LSTM": ("recurrent", "omniglot-stream5-lstm", [*GLYPHS, "--outer.n_tasks", "4"]),
    "stream MANN": ("recurrent", "omniglot-stream5-mann", [*GLYPHS, "--outer.n_tasks", "4"]),
    "viewers MMoE": ("multi-task", "recommendation-mmoe", []),
    "shapes parts": ("multi-task", "shapes-missing-dense", []),
    "scenes": ("multi-task", "scenes-dense", ["--outer.n_tasks", "2"]),
}

VALIDATED = ("ProtoNet", "VERSA", "InContext", "SNAIL")  # image learners whose validation is timed too
STARTED = (
    "glyphs-5w1s-incontext",
    ["--tasks.n_way", "5", "--outer.n_tasks", "1", "--learner.backbone.width", "8"],
)
"""The recipe that start-up of `train` is timed on: steps of a few milliseconds."""
