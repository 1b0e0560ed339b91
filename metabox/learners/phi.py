"""Checks of phi: whether its names and shapes are those that the learner produces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metabox.checks import kind_of, shown
from metabox.episodes import Examples
from metabox.learners.scaler import Y

if TYPE_CHECKING:
    from metabox.learners.base import Learner, Phi

Form = Mapping[str, tuple[int | None, ...]]
"""Name to the axes after T, None for a length that depends on the task."""

KNOWN = "_names_of_phi"
"""The attribute of a learner that holds which names with how many axes its phi has had."""


def check_phi(phi: Any, x: Tensor, dtype: torch.dtype | None) -> Phi:
    """phi with floats but the unit of y in the type of the weights; a ValueError if it is not for the tasks of x."""
    if not isinstance(phi, Mapping) or not phi or not all(isinstance(part, Tensor) for part in phi.values()):
        got = f"{len(phi)} entries, not all of them tensors" if isinstance(phi, Mapping) and phi else shown(phi)
        raise ValueError(f"expected phi as `adapt` returned it, tensors by name, got {got}; call adapt(support) first")
    for name, part in phi.items():
        if part.ndim < 1 or len(part) != len(x):
            raise ValueError(
                f"expected x for the tasks that phi was made from, got {len(x)} tasks in x and phi[{name!r}] "
                f"{kind_of(part)}; slice phi alike: {{k: v[i:j] for k, v in phi.items()}}"
            )
        if part.device != x.device:
            raise ValueError(
                f"expected phi and x on one device, got phi[{name!r}] on {part.device} and x on {x.device}; use .to()"
            )
    autocast = torch.is_autocast_enabled(x.device.type)
    if dtype != torch.float32:
        return dict(phi)
    return {name: part.float() if name != Y and _is_odd(part, autocast) else part for name, part in phi.items()}


def check_earlier(learner: Learner, phi: Any, support: Examples) -> Phi:
    """The phi that a learner is to go on from with some examples, as `check_phi` gives it.

    Raises:
        ValueError: if the learner cannot go on from a phi, or this one is not its own.
    """
    name = type(learner).__name__
    if not learner.continues:
        raise ValueError(
            f"expected no phi to go on from for {name}, whose phi is not a state; adapt to all examples at once"
        )
    if learner.scaler is not None and learner.spec.scale == "support":
        raise ValueError(
            'expected no phi to go on from with scale "support": the scale of earlier and later examples differs; use '
            'scale "training", or adapt to all examples at once'
        )
    return learner.check_query(phi, support.x)[0]


def _is_odd(part: Tensor, autocast: bool) -> bool:
    return part.is_floating_point() and part.dtype != torch.float32 and (part.dtype == torch.float64 or not autocast)


def remember(learner: Learner, phi: Phi) -> None:
    """Note the names in a phi that the learner has made, by which that of another one is told apart."""
    known, names = vars(learner).setdefault(KNOWN, []), {name: part.ndim for name, part in phi.items()}
    if names not in known:
        known.append(names)


def check_names(learner: Learner, phi: Phi) -> None:
    """Raise a ValueError unless phi has the names, and as many axes, as this learner gives it."""
    names = {name: part.ndim for name, part in phi.items()}
    if names in vars(learner).get(KNOWN, []):
        return
    form = _form(learner)  # the first phi of a learner that has made none: one that was saved, say
    if form is not None and names not in vars(learner)[KNOWN]:
        raise ValueError(_foreign(learner, phi, form))


def check_axes(learner: Learner, phi: Phi) -> None:
    """Raise a ValueError if an error of the learner was due to axes of phi that are not those it gives it."""
    form = _form(learner)
    if form is not None and not all(name in form and _fits(part.shape[1:], form[name]) for name, part in phi.items()):
        raise ValueError(_foreign(learner, phi, form))


def _foreign(learner: Learner, phi: Phi, form: Form) -> str:
    got = {name: tuple(part.shape[1:]) for name, part in phi.items()}
    differ = [
        name for name in {**form, **got} if name not in form or name not in got or not _fits(got[name], form[name])
    ]
    return (
        f"expected the phi of this {type(learner).__name__}, with {_listed(form, differ)}, got {_listed(got, differ)}; "
        "phi of another learner, or of other options, does not fit"
    )


def _fits(shape: Sequence[int | None], form: tuple[int | None, ...]) -> bool:
    return len(shape) == len(form) and all(n is None or size == n for size, n in zip(shape, form, strict=True))


def _listed(form: Form, names: list[str]) -> str:
    """The first few of some names with their axes."""
    axes = {name: ["T", *("any" if n is None else str(n) for n in form[name])] for name in names if name in form}
    first = [f"{name} [{', '.join(axes[name])}]" for name in list(axes)[:3]]
    return ", ".join([*first, "..."] if len(axes) > 3 else first) or "none of these"


@torch.no_grad()
def _form(learner: Learner) -> Form | None:
    """The form of its phi, found by adapting to supports of zeros; None if it cannot be found so."""
    state = torch.random.get_rng_state()
    try:
        _, one, other = (_shapes(learner, n) for n in (0, 1, 3))
        return {name: tuple(a if a == b else None for a, b in zip(one[name], other[name], strict=True)) for name in one}
    except Exception:  # a learner that refuses such a support is not held to a form
        return None
    finally:
        torch.random.set_rng_state(state)


def _shapes(learner: Learner, n: int) -> dict[str, tuple[int, ...]]:
    spec, like = learner.spec, next(learner.parameters(), torch.empty(0))
    x = torch.zeros(1, n, *spec.x_shape, dtype=like.dtype, device=like.device)
    y = torch.zeros(1, n, *spec.target.shape, dtype=like.dtype, device=like.device)
    support = Examples(x=x, y=y.long() if spec.target.n_classes is not None else y)
    z = x.new_zeros(1, spec.descriptor_size) if spec.descriptor_size else None
    c = None if spec.target.n_classes is None else (learner.most_classes or max(1, n))
    classes = None if c is None else torch.ones(1, c, dtype=torch.bool, device=like.device)
    phi = learner.adapt(support, z, classes)
    return {name: tuple(part.shape[1:]) for name, part in phi.items()}
