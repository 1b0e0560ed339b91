"""Examples, Episodes and TaskSpec: what fits passes, and what does not is refused with both sides named."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metabox.episodes import Episodes, Examples
from metabox.targets import Binary, Classes, Reals, Target, TaskSpec

CLASSES = TaskSpec((3,), Classes(4))
REALS = TaskSpec((3,), Reals(2))
BINARY = TaskSpec((3,), Binary(2))
DESCRIBED = TaskSpec((3,), Classes(4), descriptor_size=2)
X = torch.zeros(2, 5, 3)
Y = torch.zeros(2, 5, dtype=torch.int64)
MASK = torch.ones(2, 5, dtype=torch.bool)
ALL_OF_THEM = torch.ones(2, 4, dtype=torch.bool)


def examples(t: int = 2, n: int = 5, **parts: Tensor) -> Examples:
    return Examples(**{"x": X[:1, :1].repeat(t, n, 1), "y": Y[:1, :1].repeat(t, n)} | parts)


def episodes(t: int = 2, **parts: object) -> Episodes:
    return Episodes(**{"support": examples(t), "query": examples(t, 7)} | parts)


def hidden(position: int) -> Tensor:
    """A mask that hides one example of each task."""
    return MASK & (torch.arange(5) != position)


def with_value(values: Tensor, at: tuple[int, ...], value: float) -> Tensor:
    changed = values.clone()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("make", "expected", "got"),
    [
        (lambda: Examples(x=torch.zeros(5), y=Y), r"x of shape \[T, N, \*x_shape\]", r"float32 \[5\]"),
        (lambda: Examples(x=X, y=Y[:1]), r"y of shape \[2, 5\]", r"int64 \[1, 5\]"),
        (lambda: Examples(x=X, y=Y[:, :4]), r"y of shape \[2, 5\]", r"int64 \[2, 4\]"),
        (lambda: Examples(x=X, y=Y[0]), r"y of shape \[2, 5\]", r"int64 \[5\]"),
        (lambda: Examples(x=X, y=torch.zeros(2, 5, 1, 1)), r"y of shape \[2, 5\]", r"float32 \[2, 5, 1, 1\]"),
        (lambda: Examples(x=X, y=Y.int()), r"class ids y \[2, 5\] as int64", r"int32 \[2, 5\]"),
        (lambda: Examples(x=X, y=Y.float()), r"class ids y \[2, 5\] as int64", r"float32 \[2, 5\]"),
        (lambda: Examples(x=X, y=Y[..., None]), r"y \[2, 5, size\] as floats", r"int64 \[2, 5, 1\]"),
        (lambda: Examples(x=X, y=Y, mask=MASK[:, :4]), r"mask as bool \[2, 5\]", r"bool \[2, 4\]"),
        (lambda: Examples(x=X, y=Y, mask=MASK.float()), r"mask as bool \[2, 5\]", r"float32 \[2, 5\]"),
        (lambda: Examples(x=X, y=Y.to("meta")), "on one device", "cpu, meta and cpu"),
        (lambda: Examples(x=X, y=Y, mask=MASK.to("meta")), "on one device", "cpu, cpu and meta"),
        (lambda: episodes(query=examples(3)), "same tasks and kind", r"\[2, 5, 3\] and float32 \[3, 5, 3\]"),
        (lambda: episodes(query=examples(x=X[..., :2])), "same tasks and kind", r"\[2, 5, 3\] and float32 \[2, 5, 2\]"),
        (lambda: episodes(query=examples(y=X)), "same tasks and kind", r"int64 \[2, 5\] and float32 \[2, 5, 3\]"),
        (lambda: episodes(query=examples(x=X.byte())), "same tasks and kind", r"float32 \[2, 5, 3\] and uint8"),
        (lambda: episodes(descriptor=torch.zeros(2)), "descriptor of 2 axes", r"float32 \[2\]"),
        (lambda: episodes(descriptor=torch.zeros(2, 1).to("meta")), "descriptor on cpu", "meta"),
        (lambda: episodes(origin=torch.zeros(2, 3)), "origin .* N \\+ M", r"float32 \[2, 3\]"),
        (lambda: episodes(descriptor=torch.zeros(3, 2)), "descriptor of 2 axes, the first 2", r"float32 \[3, 2\]"),
        (lambda: episodes(classes=ALL_OF_THEM[:1]), "classes of 2 axes, the first 2", r"bool \[1, 4\]"),
        (lambda: episodes(classes=ALL_OF_THEM.long()), r"classes as bool \[T, C\]", r"int64 \[2, 4\]"),
        (lambda: episodes(oracle=torch.zeros(2, 1)), "oracle of 1 axes", r"float32 \[2, 1\]"),
        (lambda: episodes(origin=torch.zeros(3, 12)), "origin of 2 axes", r"float32 \[3, 12\]"),
        (lambda: TaskSpec((3,), "words"), "target as a Target", "'words'"),
        (lambda: TaskSpec((3,), Classes(0)), "size as a whole number of at least 1", "0"),
        (lambda: TaskSpec((3, 0), Classes(2)), "x_shape as a list of whole numbers of at least 1", r"\(3, 0\)"),
        (lambda: TaskSpec((3,), Classes(2), -1), "descriptor_size as a whole number of at least 0", "-1"),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_both_sides_named(
    make: Callable[[], object], expected: str, got: str
) -> None:
    with pytest.raises(ValueError, match=f"(?s)expected .*{expected}.*got .*{got}"):
        make()


@pytest.mark.parametrize(
    ("spec", "bad", "expected", "got"),
    [
        (CLASSES, examples(x=torch.zeros(2, 5, 4)), r"x of shape \[T, N, 3\]", r"float32 \[2, 5, 4\]"),
        (CLASSES, examples(x=torch.zeros(2, 5, 3, 1)), r"x of shape \[T, N, 3\]", r"\[2, 5, 3, 1\]"),
        (CLASSES, examples(x=X.int()), "x as floats", "int32"),
        (CLASSES, examples(x=with_value(X, (1, 4, 0), math.nan)), "finite x", r"in 1 places, first .* \[1, 4\]"),
        (CLASSES, examples(x=with_value(X, (0, 2), -math.inf)), "finite x", r"in 1 places, first .* \[0, 2\]"),
        (CLASSES, examples(y=with_value(Y, (1, 1), 4)), "class ids from 0 to 3", "0 to 4"),
        (CLASSES, examples(y=with_value(Y, (1, 1), -1)), "class ids from 0 to 3", "-1 to 0"),
        (CLASSES, examples(y=X), r"class ids y as int64 \[T, N\]", r"\[2, 5, 3\]"),
        (REALS, examples(), r"y as floats \[T, N, 2\]", r"\[2, 5\]"),
        (REALS, examples(y=X), r"y as floats \[T, N, 2\]", r"\[2, 5, 3\]"),
        (REALS, examples(y=with_value(X[..., :2], (0, 3, 1), math.nan)), "finite y", r"first .* \[0, 3\]"),
        (BINARY, examples(y=with_value(X[..., :2], (0, 3, 1), 0.5)), "binary labels of 0 and 1", "0.5 among 1 others"),
        (DESCRIBED, examples(), r"descriptor of shape \[2, 2\]", "none"),
    ],
)
def test_examples_of_another_kind_are_refused_and_both_sides_named(
    spec: TaskSpec, bad: Examples, expected: str, got: str
) -> None:
    with pytest.raises(ValueError, match=f"expected .*{expected}.*got .*{got}"):
        spec.check(bad)


@pytest.mark.parametrize(
    ("spec", "descriptor", "got"),
    [
        (CLASSES, torch.zeros(2, 2), r"float32 \[2, 2\]"),
        (DESCRIBED, torch.zeros(2, 3), r"float32 \[2, 3\]"),
        (DESCRIBED, torch.zeros(2, 2).long(), r"int64 \[2, 2\]"),
        (DESCRIBED, torch.zeros(()), r"float32 \[\]"),
        (DESCRIBED, torch.zeros(3, 2), r"float32 \[3, 2\]"),
        (DESCRIBED, torch.full((2, 2), math.nan), "NaN or infinity in 4 places"),
    ],
)
def test_a_descriptor_that_does_not_fit_is_named(spec: TaskSpec, descriptor: Tensor, got: str) -> None:
    with pytest.raises(ValueError, match=f"expected .*descriptor.*got .*{got}"):
        spec.check(examples(), descriptor)


def test_values_behind_the_mask_are_not_judged() -> None:
    CLASSES.check(examples(x=with_value(X, (0, 2), math.nan), y=with_value(Y, (1, 2), 99), mask=hidden(2)))
    REALS.check(examples(y=with_value(X[..., :2], (0, 2), math.inf), mask=hidden(2)))
    BINARY.check(examples(y=with_value(X[..., :2], (0, 2), 7.0), mask=hidden(2)))


def test_values_are_not_read_when_that_is_not_asked_for() -> None:
    CLASSES.check(examples(x=X * math.nan, y=Y + 99), values=False)
    with pytest.raises(ValueError, match="expected x of shape"):
        CLASSES.check(examples(x=X[..., :2]), values=False)


def test_examples_of_the_right_kind_pass() -> None:
    CLASSES.check(examples(y=Y + 3))
    CLASSES.check(examples(n=0))
    REALS.check(examples(y=torch.randn(2, 5, 2)))
    BINARY.check(examples(y=torch.ones(2, 5, 2)))
    DESCRIBED.check(examples(), torch.zeros(2, 2))
    TaskSpec((1, 4, 4), Classes(2)).check(examples(x=torch.zeros(2, 5, 1, 4, 4, dtype=torch.uint8)))


@pytest.mark.parametrize("part", ["support", "query"])
def test_a_label_outside_the_label_set_is_named(part: str) -> None:
    two_of_four = torch.tensor([[True, True, False, False]]).expand(2, -1)
    bad = episodes(classes=two_of_four, **{part: examples(y=with_value(Y, (1, 3), 2))})
    with pytest.raises(ValueError, match=f"expected every {part} label in its task's label set, got 1 outside"):
        CLASSES.check_episodes(bad)


def test_a_label_past_the_end_of_the_label_set_is_named() -> None:
    narrow = episodes(classes=torch.ones(2, 2, dtype=torch.bool), query=examples(y=with_value(Y, (0, 0), 3)))
    with pytest.raises(ValueError, match="expected every query label in its task's label set, got 1 outside"):
        CLASSES.check_episodes(narrow)


def test_a_label_set_too_wide_or_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected classes \[T, at most 4\], got bool \[2, 5\]"):
        CLASSES.check_episodes(episodes(classes=torch.ones(2, 5, dtype=torch.bool)))
    reals = examples(y=torch.zeros(2, 5, 2))
    with pytest.raises(ValueError, match="expected classes"):
        REALS.check_episodes(Episodes(support=reals, query=reals, classes=ALL_OF_THEM))


def test_labels_of_padding_may_lie_outside_the_label_set() -> None:
    narrow = torch.tensor([[True, False, False, False]]).expand(2, -1)
    padded = examples(y=with_value(with_value(Y, (0, 2), 3), (1, 2), 99), mask=hidden(2))
    CLASSES.check_episodes(episodes(classes=narrow, query=padded))


def test_a_task_without_classes_is_named() -> None:
    none = torch.tensor([[True] * 4, [False] * 4])
    with pytest.raises(ValueError, match="expected every task to have a class"):
        CLASSES.check_episodes(episodes(classes=none))


def test_padding_may_be_labelled_minus_one() -> None:
    padded = examples(y=with_value(Y, (1, 2), -1), mask=hidden(2))
    CLASSES.check_episodes(episodes(classes=ALL_OF_THEM, query=padded))


def test_parts_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="device"):
        episodes(query=examples().to("meta"))


@given(t=st.integers(1, 5), low=st.integers(-6, 6), high=st.integers(-6, 6), k=st.integers(0, 4))
def test_slices_are_slices_of_every_part(t: int, low: int, high: int, k: int) -> None:
    whole = episodes(
        support=Examples(x=torch.randn(t, 4, 3), y=torch.randint(4, (t, 4)), mask=torch.rand(t, 4) < 0.5),
        query=examples(t, 2),
        descriptor=torch.randn(t, 2),
        classes=torch.rand(t, 4) < 0.5,
        origin=torch.arange(6 * t).view(t, 6),
    )
    part = whole[low:high]
    assert len(part) == len(range(t)[low:high])
    assert part.oracle is None
    for name in ("descriptor", "classes", "origin"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[low:high])
    shorter = whole.support[low:high, :k]
    for name in ("x", "y", "mask"):
        assert torch.equal(getattr(part.support, name), getattr(whole.support, name)[low:high])
        assert torch.equal(getattr(shorter, name), getattr(whole.support, name)[low:high, :k])


def test_moving_episodes_moves_every_part_and_keeps_what_is_absent() -> None:
    moved = episodes(descriptor=torch.zeros(2, 1), oracle=torch.zeros(2)).to("meta")
    assert {part.device.type for part in (moved.descriptor, moved.oracle) if part is not None} == {"meta"}
    assert {getattr(e, f.name).device.type for e in (moved.support, moved.query) for f in fields(e)} == {"meta"}
    assert moved.classes is None
    assert moved.origin is None


def test_without_a_mask_every_example_is_real() -> None:
    assert torch.equal(Examples(x=X, y=Y).mask, MASK)


def test_examples_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        examples().x = X


@given(st.integers(1, 9), st.integers(1, 9))
def test_the_union_of_two_specs_has_the_larger_number_of_classes(a: int, b: int) -> None:
    one, two = TaskSpec((3,), Classes(a), 2), TaskSpec((3,), Classes(b), 2)
    assert one.union(two) == two.union(one) == TaskSpec((3,), Classes(max(a, b)), 2)


@pytest.mark.parametrize("other", [TaskSpec((4,), Classes(4)), DESCRIBED])
def test_specs_of_different_kinds_have_no_union(other: TaskSpec) -> None:
    with pytest.raises(ValueError, match=r"expected two samplers of one kind of task, got TaskSpec.* and TaskSpec"):
        CLASSES.union(other)


@pytest.mark.parametrize("kind", [Reals, Binary])
def test_vectors_of_different_sizes_have_no_union(kind: type[Target]) -> None:
    with pytest.raises(ValueError, match=r"expected targets of one kind and size, got .*size=2.* and .*size=3"):
        TaskSpec((3,), kind(2)).union(TaskSpec((3,), kind(3)))
