"""Whole steps as one CUDA graph: launching it takes as long as launching one kernel."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor

from metabox.episodes import Episodes, Examples

log = logging.getLogger(__name__)

Outcome = tuple[Tensor, dict[str, Tensor]]
Train = Callable[[Sequence[Episodes]], Outcome]

WARM_UP = 3  # steps of one size that are made before one is captured, so that kernels are loaded and moments exist


class Recorder(Protocol):
    """What records the kernels of a call, for Captured."""

    def apart(self, call: Callable[[], Outcome]) -> Outcome:
        """Make a call without recording it, in the same way as one that will be recorded."""

    def record(self, call: Callable[[], Outcome]) -> None:
        """Record the kernels of a call; they need not run."""

    def replay(self) -> Outcome:
        """Run the recorded kernels; returns what the call returned, in the same memory each time."""


class CudaGraph:
    """Records calls as a CUDA graph, with a private pool of memory. See "CUDA graphs" in the notes of torch's manual.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        # One stream for what comes before and for the capture: handles of cuBLAS belong to a stream, and the nodes that
        # accumulate gradients stay on the stream of their first use.
        self.stream = torch.cuda.Stream(device)

    def apart(self, call: Callable[[], Outcome]) -> Outcome:
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outcome = call()
        current.wait_stream(self.stream)
        return outcome

    def record(self, call: Callable[[], Outcome]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        capture = torch.cuda.graph(
            self.graph,
            stream=self.stream,
            capture_error_mode="thread_local",  # another thread may copy images meanwhile (Prefetch)
        )
        # The outer context is for a capture that fails, after which torch leaves its stream the current one.
        with torch.cuda.stream(self.stream), capture:
            self.outcome = call()

    def replay(self) -> Outcome:
        self.graph.replay()
        return self.outcome


def recorder_of(device: torch.device) -> Recorder | None:
    """A recorder for a device, or None, with a warning, if it has no graphs."""
    if device.type == "cuda":
        return CudaGraph(device)
    log.warning("there are no CUDA graphs on %s, training goes on without", device.type)
    return None


class Captured:
    """Makes steps by replaying a recorded one, for batches of one size; others are made as without it.

    The first few steps are ordinary ones, so nothing has to be undone. The size is the first one that comes in
    `WARM_UP` steps in a row. If recording fails, all steps are ordinary ones, with a warning.

    Args:
        train: makes a step from its batches. What changes from step to step must be in tensors: the learning rate, the
            counts of steps, the weight of the average; and the state of the generators, which a graph reads anew.
        clear: drops the gradients that a step has left; called if recording fails.
        recorder: of its kernels.
    """

    def __init__(self, train: Train, clear: Callable[[], None], recorder: Recorder) -> None:
        self.train, self.clear, self.recorder = train, clear, recorder
        self.sizes: list[Any] = []
        self.made = 0
        self.inputs: list[list[Tensor]] | None = None
        self.works = True

    def __call__(self, batches: Sequence[Episodes]) -> Outcome:
        """Make a step. The returned tensors may be overwritten by the next one."""
        values = [_tensors(batch) for batch in batches]
        sizes = [[(value.shape, value.dtype) for value in batch] for batch in values]
        if self.inputs is None and sizes != self.sizes:
            self.sizes, self.made = sizes, 0
        if self.inputs is None and self.works and self.made >= WARM_UP:
            self._record(batches)
        if self.inputs is None or sizes != self.sizes:
            self.made += 1
            return self.recorder.apart(lambda: self.train(batches))
        for own, new in zip(self.inputs, values, strict=True):
            for into, value in zip(own, new, strict=True):
                into.copy_(value, non_blocking=True)
        return self.recorder.replay()

    def _record(self, batches: Sequence[Episodes]) -> None:
        static = [_cloned(batch) for batch in batches]
        try:
            self.recorder.record(lambda: self.train(static))
        except RuntimeError as error:  # a learner that waits for the device, for example
            self.works = False
            self.clear()
            reason = str(error).strip().partition("\n")[0]
            log.warning("a step cannot be captured as a CUDA graph, training goes on without: %s", reason)
        else:
            self.inputs = [_tensors(batch) for batch in static]


def _tensors(part: Episodes | Examples) -> list[Tensor]:
    """All tensors of a batch, in the order of its fields."""
    found: list[Tensor] = []
    for field in fields(part):
        value = getattr(part, field.name)
        if value is not None:
            found += [value] if isinstance(value, Tensor) else _tensors(value)
    return found


def _cloned(batch: Episodes) -> Episodes:
    def cloned(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.clone()
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        return type(part)(**{name: value if value is None else cloned(value) for name, value in values.items()})

    copy: Episodes = cloned(batch)
    return copy
