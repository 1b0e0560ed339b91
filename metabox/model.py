"""`Model`: a trained learner with all that is needed to use it, in one file."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metabox import model_file
from metabox.adaptation import Adaptation, adaptation_from
from metabox.checks import check, check_fields, checked, shown
from metabox.config import plain
from metabox.data.given import as_inputs
from metabox.data.preprocessing import Preprocessing
from metabox.data.views import views as views_of
from metabox.episodes import Examples, Split
from metabox.inputs import device_of
from metabox.learners.base import Learner, Phi
from metabox.nn.norm import transductive
from metabox.plugins import allowed
from metabox.ranges import Count, Positive
from metabox.rebuilding import described, rebuilt
from metabox.targets import Parts, TaskSpec
from metabox.training.description import Description, as_json, from_json, read_description

MOST_TEXT = 1_000_000
WEIGHTS, PHI = "weights.", "phi."


@dataclass(frozen=True, repr=False)
class Model:
    """A trained learner with its spec, preprocessing, class names, temperature, licence and model card.

    It is used as it is, and never trained further; a copy shares its weights.

    learner: in evaluation mode
    preprocessing: of the training images, if they came from files
    class_names: of each split that was sampled in training
    temperature: by which logits of classes are divided, so that probabilities are calibrated
    padded: whether vectors may have fewer numbers than the learner's, filled up with zeros
    name, licence, card: texts

    Raises:
        ValueError: if a value is out of range.
    """

    learner: Learner
    preprocessing: Preprocessing | None = None
    class_names: Mapping[Split, Sequence[str]] = None  # type: ignore[assignment]  # filled in below
    temperature: Positive = 1.0
    padded: bool = False
    name: str = ""
    licence: str = ""
    card: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.learner, Learner):
            raise ValueError(f"expected a Learner, got {shown(self.learner)}")
        object.__setattr__(self, "class_names", self.class_names or {})
        check_fields(self)
        self.learner.eval().requires_grad_(False)

    @property
    def spec(self) -> TaskSpec:
        return self.learner.spec

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.learner.parameters()), torch.device("cpu"))

    @property
    def most_classes(self) -> int | None:
        """The largest number of classes that a task may have; None if there is no limit."""
        return self.learner.most_classes

    def to(self, device: str | torch.device) -> Model:
        """Move the weights to a device; returns the model itself."""
        self.learner.to(device_of(device))
        return self

    @property
    def transductive(self) -> bool:
        """Whether the queries of a task may influence each other, so that they are answered together."""
        return self.learner.transductive or transductive(self.learner)

    @classmethod
    @checked
    def from_run(
        cls, run: str | Path, *, name: str = "", licence: str = "", card: str = "", plugins: Sequence[str] = ()
    ) -> Model:
        """The model of a finished run, with its best weights. No data are needed.

        Args:
            run: the folder; it may be untrusted.
            name: of the model; by default that of the folder.
            licence: of the weights.
            card: what the model was trained on, and what it is good for.
            plugins: your own modules or files whose classes the recipe names; they are imported.

        Raises:
            ValueError: as for `load_run`.
        """
        from metabox.recipe import load_run  # slow to import

        learner, _ = load_run(run, plugins)
        with allowed(plugins):
            known = read_description(run)
        return cls(
            learner, known.preprocessing, known.class_names, name=name or Path(run).name, licence=licence, card=card
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], device: str | torch.device = "cpu", plugins: Sequence[str] = ()
    ) -> Model:
        """Read a file that `save` wrote, wherever its weights were. It may be untrusted: nothing in it can run code.

        Args:
            path: the file.
            device: where the weights go.
            plugins: your own modules or files whose classes the file names; they are imported.

        Raises:
            ValueError: if it is no such file, was damaged, or names a class of neither metabox nor a plugin.
        """
        return load_file(path, device, plugins)[0]

    def save(self, path: str | os.PathLike[str], adaptation: Adaptation | None = None) -> Path:
        """Write one file `*.metabox`, atomically; with an adaptation it answers without further examples.

        Raises:
            ValueError: if the path has another suffix, or the learner cannot be described.
            OSError: if it cannot be written.
        """
        content, weights = described(self.learner)
        tensors = {f"{WEIGHTS}{name}": tensor for name, tensor in weights.items()}
        about = as_json(Description(self.spec, self.preprocessing, self.class_names)) | {
            "learner": content,
            "dtype": str(_dtype(self.learner)).removeprefix("torch."),
            **{name: getattr(self, name) for name in ("temperature", "padded", "name", "licence", "card")},
        }
        if adaptation is not None:
            self.check_own(adaptation)
            tensors |= {f"{PHI}{name}": tensor for name, tensor in adaptation.phi.items()}
            about["adaptation"] = adaptation.about()
        return model_file.write(path, model_file.to_bytes("model", tensors, about))

    def inputs(self, x: Any) -> Tensor:
        """Inputs `[N, *x_shape]` on the model's device; see `metabox.data.given.as_inputs` for what may be given.

        Raises:
            ValueError: if one of them is no such input.
        """
        inputs = as_inputs(x, self.spec.x_shape, self.preprocessing, self.padded)
        if inputs.dtype == torch.float64 and self.learner.scaler is None:
            inputs = inputs.to(_dtype(self.learner))
        return inputs.to(self.device)

    @torch.no_grad()
    def adapt(self, x: Any, y: Any, classes: Sequence[Hashable] | None = None, views: Count = 1) -> Adaptation:
        """Learn a task from examples, in one forward pass.

        Args:
            x: N inputs, as for `inputs`.
            y: for classes, N names (strings or numbers); else N targets, as arrays.
            classes: names in the order of the columns of predictions; by default those in y, sorted.
            views: over how many small random changes of the images, of support and query, answers are averaged.

        Raises:
            ValueError: if the examples are not of the model's kind, or have more classes than it can tell apart.
        """
        x = self.inputs(x)
        if self.spec.target.n_classes is None:
            return self.adapted(x, self.targets(y, len(x)), None, views)
        names = list(np.asarray(y).tolist()) if not isinstance(y, (list, tuple)) else list(y)
        chosen = tuple(_sorted_names(names) if classes is None else classes)
        number = {name: i for i, name in enumerate(chosen)}
        if len(number) != len(chosen) or not all(name in number for name in names):
            raise ValueError(f"expected classes that are all different and include those of y, got {shown(classes)}")
        if len(names) != len(x):
            raise ValueError(f"expected a class for each of {len(x)} inputs, got {len(names)}")
        return self.adapted(x, torch.tensor([number[name] for name in names], dtype=torch.int64), chosen, views)

    @torch.no_grad()
    def adapted(self, x: Tensor, y: Tensor, classes: tuple[Any, ...] | None, views: int = 1) -> Adaptation:
        """The same from tensors: x `[N, *x_shape]`, y `[N]` class ids or `[N, size]`."""
        self.check_usable(None if classes is None else len(classes))
        y = y.to(self.device)
        if classes is None and y.is_floating_point() and self.learner.scaler is None:
            y = y.to(_dtype(self.learner))
        if check("views", views, Count) > 1 and (len(self.spec.x_shape) != 3 or x.dtype != torch.uint8):
            raise ValueError(f"expected 1 view of inputs that are no uint8 images, got {views}")
        seen = x[None] if views == 1 else views_of(x, views, each=True)
        label_set = None if classes is None else torch.ones(views, len(classes), dtype=torch.bool, device=self.device)
        phi = self.learner.adapt(Examples(x=seen, y=y.expand(views, *y.shape)), None, label_set)
        return Adaptation(phi, classes, self.fingerprint)

    def targets(self, y: Any, n: int) -> Tensor:
        """Targets `[N, size]` that are no classes.

        Raises:
            ValueError: if they have another shape, or are no numbers.
        """
        try:
            array = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected targets as numbers, got {shown(y)}") from error
        size = self.spec.target.shape[0]
        array = array[:, None] if array.ndim == 1 and size == 1 else array
        if array.shape != (n, size):
            raise ValueError(f"expected targets [{n}, {size}], got {list(array.shape)}")
        return torch.tensor(array)

    @torch.no_grad()
    def predict(self, adaptation: Adaptation, x: Any, batch: Count = 256) -> Tensor:
        """Answer any number of queries.

        Args:
            adaptation: of this model.
            x: M inputs, as for `inputs`.
            batch: inputs at a time, for memory.

        Returns:
            For classes, their probabilities `[M, n]` in the order of `adaptation.classes`; else the parameters `[M, P]`
            of `spec.target`, in the units of y.

        Raises:
            ValueError: if the inputs are not of the model's kind, or the adaptation is of another model.
        """
        self.check_own(adaptation)
        x = self.inputs(x)
        phi = {name: part.to(self.device) for name, part in adaptation.phi.items()}
        parts = [x] if self.transductive else x.split(check("batch", batch, Count))
        answers = [self.answers(self._params(phi, part, adaptation.n_views), adaptation) for part in parts]
        return torch.cat(answers) if answers else x.new_empty(0, self.learner.n_params)

    @torch.no_grad()
    def without_examples(self) -> Adaptation:
        """The adaptation of a model that is shown no examples: of parts that are predicted from x alone.

        Raises:
            ValueError: if the model needs a descriptor.
        """
        target, x_shape = self.spec.target, self.spec.x_shape
        x = torch.zeros(0, *x_shape, dtype=torch.uint8 if len(x_shape) == 3 else _dtype(self.learner))
        classes = None if target.n_classes is None else tuple(range(target.n_classes))
        y = torch.zeros(0, *target.shape, dtype=torch.int64 if target.n_classes else _dtype(self.learner))
        return self.adapted(x.to(self.device), y, classes)

    def parts(self, params: Tensor) -> dict[str, Tensor]:
        """What `predict` returned, by part: of M queries `[M, C, *spatial]` or `[M, size, *spatial]`.

        Probabilities of classes and labels, means of reals in the units of y.

        Raises:
            ValueError: if the model's target has no parts.
        """
        target = self.spec.target
        if not isinstance(target, Parts):
            raise ValueError(f"expected a model whose target has parts, got {target!r}; use predict")
        return target.answers(params)

    def _params(self, phi: Phi, x: Tensor, n_views: int) -> Tensor:
        return self.params(phi, x[None] if n_views == 1 else views_of(x, n_views, each=False))

    def params(self, phi: Phi, x: Tensor) -> Tensor:
        """What the learner predicts `[T, M, P]`, for classes as calibrated log probabilities."""
        params = self.learner.predict(phi, x)
        return params if self.spec.target.n_classes is None else self.log_probs(params)

    def answers(self, params: Tensor, adaptation: Adaptation) -> Tensor:
        """What `predict` returns, from `params` of one task: `[views, M, P]`."""
        mixed = params[0] if len(params) == 1 else self.spec.target.mixture(params[None])[0]
        return mixed if adaptation.classes is None else mixed[:, : len(adaptation.classes)].exp()

    def log_probs(self, logits: Tensor) -> Tensor:
        """Calibrated log probabilities from logits `[..., P]` of classes; those outside the label set stay at 0."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        outside = logits == torch.finfo(logits.dtype).min
        return (logits / self.temperature).masked_fill(outside, -torch.inf).log_softmax(-1)

    @property
    def fingerprint(self) -> str:
        """A hash of what the learner is and of its weights."""
        known: str | None = vars(self).get("_fingerprint")
        if known is None:
            content, weights = described(self.learner)
            about = json.dumps((content, plain(self.spec)), sort_keys=True)  # a file may bring options in another order
            digest = blake2b(about.encode(), digest_size=8)
            for name in sorted(weights):
                digest.update(name.encode() + weights[name].cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
            known = digest.hexdigest()
            object.__setattr__(self, "_fingerprint", known)
        return known

    def check_own(self, adaptation: Adaptation) -> None:
        """Raise a ValueError if an adaptation is none, or that of another model."""
        if not isinstance(adaptation, Adaptation):
            raise ValueError(f"expected an Adaptation, as `adapt` returns it, got {shown(adaptation)}")
        if adaptation.model != self.fingerprint:
            raise ValueError("expected an adaptation of this model, got that of another one; adapt this one")

    def check_usable(self, n_classes: int | None) -> None:
        """Raise a ValueError if the model cannot learn such a task from examples alone."""
        if self.spec.descriptor_size:
            raise ValueError("expected a model that learns from examples alone, got one that needs a descriptor too")
        most = self.most_classes
        if n_classes is not None and most is not None and n_classes > most:
            raise ValueError(
                f"expected at most {most} classes for this model ({type(self.learner).__name__}), got {n_classes}; "
                "train one with a larger n_way, or use one without a limit, such as ProtoNet or CAML"
            )

    def __repr__(self) -> str:
        named = f"{self.name!r}, " if self.name else ""
        return f"Model({named}{type(self.learner).__name__} for {self.spec})"

    def __deepcopy__(self, memo: Any) -> Model:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_fingerprint"}
        if self.device.type != "cpu":  # or only a machine with such a device could read it
            state["learner"] = copy.deepcopy(self.learner).cpu()
        return state


def load_file(
    path: str | os.PathLike[str], device: str | torch.device = "cpu", plugins: Sequence[str] = ()
) -> tuple[Model, Adaptation | None]:
    """As `Model.load`, with the adaptation that the file holds."""
    tensors, about = model_file.from_bytes("model", model_file.read(path), str(path))
    weights = {name.removeprefix(WEIGHTS): part for name, part in tensors.items() if name.startswith(WEIGHTS)}
    phi = {name.removeprefix(PHI): part for name, part in tensors.items() if name.startswith(PHI)}
    if len(weights) + len(phi) != len(tensors):
        raise ValueError(f"expected weights and phi in {path}, got other tensors")
    texts: dict[str, Any] = {name: about.get(name) for name in ("name", "licence", "card")}
    if not all(isinstance(text, str) and len(text) <= MOST_TEXT for text in texts.values()):
        raise ValueError(f"expected name, licence and card as texts in {path}, got something else")
    with allowed(plugins):
        known = from_json(about, str(path))
        learner = rebuilt(about.get("learner"), known.spec, weights, str(path), about.get("dtype"))
    texts |= {"temperature": about.get("temperature"), "padded": about.get("padded")}
    model = Model(learner, known.preprocessing, known.class_names, **texts).to(device)
    if "adaptation" not in about and not phi:
        return model, None
    there = {name: part.to(model.device) for name, part in phi.items()}
    adaptation = adaptation_from(there, about.get("adaptation"), model.fingerprint, str(path))
    if (adaptation.classes is None) != (model.spec.target.n_classes is None):
        raise ValueError(f"expected classes in {path} if targets are classes, got something else")
    model.check_usable(None if adaptation.classes is None else len(adaptation.classes))
    return model, adaptation


def _sorted_names(names: Sequence[Any]) -> list[Any]:
    distinct = list(dict.fromkeys(names))
    return sorted(distinct) if len({type(name) for name in distinct}) == 1 else sorted(distinct, key=str)


def _dtype(learner: Learner) -> torch.dtype:
    """The type of the weights; without any, of NumPy's numbers."""
    return next((p.dtype for p in learner.parameters()), torch.float64)
