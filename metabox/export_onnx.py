"""A model as two ONNX graphs, for any number of tasks, examples and queries, and for machines without torch.

export_onnx(model, "served")                       # once, here; writes served/adapt.onnx and served/predict.onnx
adapt = onnxruntime.InferenceSession("served/adapt.onnx")       # anywhere
predict = onnxruntime.InferenceSession("served/predict.onnx")
phi = adapt.run(None, {"x": x, "y": y, "mask": mask, "classes": classes})
names = [part.name for part in adapt.get_outputs()]
(answer,) = predict.run(None, dict(zip(names, phi)) | {"queries": queries})
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from metabox.checks import checked
from metabox.config import plain
from metabox.episodes import Examples
from metabox.files import write_atomically
from metabox.learners.base import Learner, Phi
from metabox.model import Model

ADAPT, PREDICT = "adapt.onnx", "predict.onnx"
SIZES = (1, 2, 7)
"""Numbers of tasks, examples and queries at which the graphs are compared with the model."""
TOLERANCE = 1e-4
FREE: dict[int, Any] = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}


class _Adapt(nn.Module):
    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, x: Tensor, y: Tensor, mask: Tensor, classes: Tensor | None = None) -> Phi:
        return self.learner.adapt(Examples(x=x, y=y, mask=mask), None, classes)


class _Predict(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.learner, self.temperature = model.learner, model.temperature

    def forward(self, phi: Phi, queries: Tensor) -> Tensor:
        params = self.learner.predict(phi, queries)
        if self.learner.spec.target.n_classes is None:
            return params
        return (params.float() / self.temperature).softmax(-1)


@checked
def export_onnx(model: Model, folder: str | Path) -> dict[str, Any]:
    """Write `adapt.onnx` and `predict.onnx`, after they have been compared with the model at several sizes.

    The inputs of the first are `x [T, N, *x_shape]`, `y`, `mask [T, N]` and for classes `classes [T, C]`, the label
    sets. Its outputs are the parts of phi, which are inputs of the second by their names, beside
    `queries [T, M, *x_shape]`. The output of the second is `probabilities [T, M, C]`, with the model's temperature, or
    for other targets `params [T, M, P]`. T, N and M are free, and C too if the model has no largest number of classes.
    The metadata of both graphs hold what `Model` holds beside weights, as JSON under "metabox".

    Args:
        model: on any device.
        folder: where the two files go.

    Returns:
        The largest differences from the model, by output.

    Raises:
        ValueError: if the learner does what ONNX cannot express, or a graph differs from the model at some size.
        ImportError: if onnx, onnxscript or onnxruntime is missing.
    """
    _check_installed()
    model.check_usable(None)
    adapt, predict, names = _graphs(model)
    largest = _compare(model, adapt, predict, names)
    _write(Path(folder) / ADAPT, adapt)
    _write(Path(folder) / PREDICT, predict)
    return largest


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'expected the extra onnx, got {error}; pip install ".[onnx]" from a checkout') from error


@torch.no_grad()
def _graphs(model: Model) -> tuple[bytes, bytes, list[str]]:
    """Both files, and the names of the parts of phi."""
    given, queries = _inputs(model, 3, 5, 4)  # all different, and none is 1, which the exporter takes for a constant
    shapes: dict[str, Any] = dict.fromkeys(given, FREE)
    if "classes" in given and model.most_classes is not None:
        shapes["classes"] = {0: Dim.DYNAMIC}
    phi = model.learner.adapt(_support(given), None, given.get("classes"))
    names = [f"phi.{name}" for name in phi]
    adapt = _graph(_Adapt(model.learner), tuple(given.values()), shapes, list(given), names, model)
    forms = {name: _free_axes(model, name, part) for name, part in phi.items()}
    output = ["probabilities" if "classes" in given else "params"]
    predict = _graph(
        _Predict(model), (phi, queries), {"phi": forms, "queries": FREE}, [*names, "queries"], output, model
    )
    return adapt, predict, names


def _free_axes(model: Model, name: str, part: Tensor) -> dict[int, Any]:
    """The axes of a part of phi that depend on the number of tasks, of examples or of classes."""
    others = [
        model.learner.adapt(_support(given), None, given.get("classes"))[name]
        for given, _ in (_inputs(model, 3, 6, 4), _inputs(model, 3, 5, 4, n_classes=4))
    ]
    axes = [axis for axis in range(1, part.ndim) if any(other.shape[axis] != part.shape[axis] for other in others)]
    return dict.fromkeys([0, *axes], Dim.DYNAMIC)


def _graph(
    module: nn.Module, arguments: tuple[Any, ...], shapes: Any, inputs: list[str], outputs: list[str], model: Model
) -> bytes:
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                module.eval(),
                arguments,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
            stream = io.BytesIO()
            program.model.metadata_props["metabox"] = json.dumps(_about(model))
            program.save(stream)
    except Exception as error:  # the exporter raises many types
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        name = type(model.learner).__name__
        raise ValueError(
            f"expected a learner that ONNX can express, got {name}; serve it by torch ({reason})"
        ) from error
    return stream.getvalue()


@torch.no_grad()
def _compare(model: Model, adapt: bytes, predict: bytes, names: list[str]) -> dict[str, float]:
    """The largest differences; a ValueError if a graph differs, or has fixed a size that must be free."""
    import onnxruntime

    largest: dict[str, float] = {}
    try:
        first, second = (onnxruntime.InferenceSession(graph) for graph in (adapt, predict))
    except Exception as error:  # of onnxruntime, which has its own
        raise ValueError(
            f"expected graphs that onnxruntime reads, got ones of {type(model.learner).__name__} that it does not: "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    for t, n, m in itertools.product(SIZES, SIZES, SIZES):
        given, queries = _inputs(model, t, n, m)
        phi = model.learner.adapt(_support(given), None, given.get("classes"))
        wanted = [*phi.values(), _Predict(model)(phi, queries)]
        try:
            got = first.run(None, _present(first, given))
            got += second.run(None, _present(second, dict(zip(names, got, strict=True)) | {"queries": queries}))
        except Exception as error:
            raise ValueError(
                f"expected graphs for any number of tasks, examples and queries, got ones of "
                f"{type(model.learner).__name__} that fail at {t}, {n} and {m}: {' '.join(str(error).split())[:200]}"
            ) from error
        for name, ours, theirs in zip([*names, "answer"], wanted, got, strict=True):
            ours = ours.cpu().numpy()
            if ours.shape != theirs.shape:
                raise ValueError(f"expected {name} of shape {list(ours.shape)}, got {list(theirs.shape)}")
            apart = float(np.abs(ours.astype(np.float64) - theirs).max()) if ours.size else 0.0
            largest[name] = max(largest.get(name, 0.0), apart)
    apart = largest["answer"]
    if not apart <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise ValueError(f"expected graphs that answer as the model does, got differences up to {apart:.2g}")
    return largest


def _present(session: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a graph has: those that it does not need are not in it."""
    there = {part.name for part in session.get_inputs()}
    return {name: np.asarray(torch.as_tensor(value).cpu()) for name, value in given.items() if name in there}


def _inputs(model: Model, t: int, n: int, m: int, n_classes: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Random inputs of `adapt`, and queries."""
    spec, random = model.spec, torch.Generator().manual_seed(t + 10 * n + 100 * m)
    if len(spec.x_shape) == 3:
        x = torch.randint(256, (t, n + m, *spec.x_shape), generator=random, dtype=torch.uint8)
    else:
        x = torch.rand(t, n + m, *spec.x_shape, generator=random) * 2 - 1
    x, queries = (part.contiguous().to(model.device) for part in (x[:, :n], x[:, n:]))
    mask = torch.ones(t, n, dtype=torch.bool, device=model.device)
    if spec.target.n_classes is None:
        y = torch.rand(t, n, *spec.target.shape, generator=random).round(decimals=0)
        return {"x": x, "y": y.to(model.device), "mask": mask}, queries
    c = n_classes if model.most_classes is None else model.most_classes
    y = (torch.arange(n) % c).expand(t, n).contiguous().to(model.device)
    classes = torch.ones(t, c, dtype=torch.bool, device=model.device)
    return {"x": x, "y": y, "mask": mask, "classes": classes}, queries


def _support(given: Mapping[str, Tensor]) -> Examples:
    return Examples(x=given["x"], y=given["y"], mask=given["mask"])


def _about(model: Model) -> dict[str, Any]:
    return {
        "spec": plain(model.spec),
        "most_classes": model.most_classes,
        "preprocessing": model.preprocessing and asdict(model.preprocessing),
        "class_names": {split: list(names) for split, names in model.class_names.items()},
        **{name: getattr(model, name) for name in ("temperature", "padded", "name", "licence", "card")},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, of which none is about the graph that is then checked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
