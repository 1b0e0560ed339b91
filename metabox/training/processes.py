"""The processes of a run: how many there are, and how they stop together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GLOO = ("gloo", "pair closure")  # parts of its messages, which have no class of their own


def world_size(fabric: Fabric) -> int:
    """The number of processes of a run, known before it is launched."""
    return len(getattr(fabric.strategy, "parallel_devices", None) or [0]) * getattr(fabric.strategy, "num_nodes", 1)


@contextmanager
def peer_failures(world_size: int) -> Iterator[None]:
    """Raise ConnectionError if a step fails because another process of the run has failed."""
    try:
        yield
    except RuntimeError as error:
        of_gloo = any(word in str(error) for word in GLOO)
        if world_size > 1 and (isinstance(error, torch.distributed.DistError) or of_gloo):
            raise ConnectionError(
                "another process of this run ended, or did not answer in time; its output says why. "
                f"The same command goes on from the last checkpoint ({error})"
            ) from error
        raise


class Stop:
    """Whether a run is to stop; all its processes get the same answer.

    Several processes learn of a signal one step late: they wait for the step before, not for the one being computed.

    Args:
        fabric: launched.
        signals: that this process has received.
    """

    def __init__(self, fabric: Fabric, signals: list[int]) -> None:
        self.fabric, self.signals = fabric, signals
        self.asked = torch.zeros(())  # in the step before
        self.message: torch.distributed.Work | None = None

    def __call__(self) -> bool:
        """Must be called once in each step."""
        if self.fabric.world_size == 1:
            return bool(self.signals)
        if self.message is not None:
            self.message.wait()
        before, self.asked = self.asked, torch.full((), float(bool(self.signals)), device=self.fabric.device)
        self.message = torch.distributed.all_reduce(self.asked, async_op=True)
        return bool(before)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM while a step runs, so that the loop can end between steps."""
    received: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, lambda n, _frame: received.append(n))
        except ValueError:  # not the main thread: its owner handles signals
            break
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
