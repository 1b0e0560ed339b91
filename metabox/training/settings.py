"""The settings of the outer loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from metabox.checks import check_fields
from metabox.ranges import BelowOne, Count, Natural, NotNegative, Positive, Within

DEPENDENT_OPTIONS = {
    "epsilon": ("optimizer", ("adam", "adamw", "muon", "rmsprop")),
    "momentum": ("optimizer", ("rmsprop", "sgd")),
    "smoothing": ("optimizer", ("rmsprop",)),
    "decay_every": ("schedule", ("step",)),
    "decay": ("schedule", ("step",)),
}
"""Options that apply only to some choices of another option: that option, and the choices."""


@dataclass(frozen=True, kw_only=True)
class OuterLoop:
    """How theta is trained across tasks.

    Args:
        steps: number of optimizer steps.
        n_tasks: tasks per step, over all devices and accumulated batches together.
        lr: peak learning rate.
        optimizer: "adamw" decouples weight decay from the gradient; "adam", "rmsprop" and "sgd" add it to the gradient.
            "muon" is "adamw" but for matrices and kernels that decay, which take steps of the same length in all
            directions (see `metabox.training.muon.Muon`).
        weight_decay: strength of that decay. It pulls weights that multiply their inputs towards 0, and leaves alone
            biases, gains, embeddings and learned scalars: a module declares its own as `decayed`.
        epsilon: of all but "sgd", added to the root of the mean squared gradient; it keeps steps short if gradients
            are not far above it.
        momentum: of "sgd" and "rmsprop", the share of the last step's direction that is kept; 0 for none.
        smoothing: of "rmsprop", the share of the mean squared gradient that a step keeps (Hinton's 0.9; torch's alpha).
        warmup: steps over which the learning rate rises from 0.
        schedule: "cosine" decays to 1% of the peak at the last step, "step" multiplies by `decay` after every
            `decay_every` steps, "constant" stays at the peak.
        decay_every: of "step", which requires it: steps between two decays of the learning rate.
        decay: of "step", the factor of each decay.
        clip: largest norm of the gradient; a longer one is scaled down.
        accumulate: batches that a step's tasks are split into, to save memory.
        recompute: recompute the activations of transformer layers in the backward pass, to save memory if supports
            are long.
        average: decay of an exponential moving average of the weights (for example 0.999), which is then what is
            validated and kept; 0 for none.
        precision: of training and validation. "auto" is bf16 autocast if such learners are faster in it on the device,
            else float32: on a GPU with bf16 always; on a CPU with fast bf16 for learners with convolutions or wide
            layers. A resumed run keeps what it began with. The final evaluation is always in float32.
        compile: "on" compiles the objective, forward and backward, with torch.compile (a minute or so before the first
            step); "auto" does so on a GPU, where the small kernels of most learners gain most. "graphs" instead
            captures a whole step as one CUDA graph, for batches of one size, on one GPU and without a weighting; on a
            CPU it changes nothing. If either fails, training goes on without it, with a warning.
        validate_every: steps between validations; each also writes a checkpoint.
        n_validation: number of validation tasks.
        patience: stop after this many validations in a row without a new best; 0 never stops.
        max_skipped: stop after this many steps in a row whose loss or gradient is not finite. Such steps change
            nothing; they are counted when the log is written, so the run may end up to 50 steps later.
        accelerator: "auto", "cpu", "gpu", "cuda", "mps" or "tpu" (Lightning Fabric).
        devices: number of devices, or "auto" for all.
        num_nodes: number of machines, each started by the launcher.
        strategy: "auto", "ddp" (each device has all weights), "fsdp" (each has a shard of the weights, gradients and
            optimizer state, and gathers the weights for a step), or another of Lightning Fabric's.
        timeout: seconds that a run on several devices waits for the others before it gives up.
    """

    steps: Count = 2000
    n_tasks: Count = 16
    lr: Positive = 2e-3
    optimizer: Literal["adam", "adamw", "muon", "rmsprop", "sgd"] = "adamw"
    weight_decay: NotNegative = 1e-4
    epsilon: Positive = 1e-8
    momentum: BelowOne = 0.0
    smoothing: BelowOne = 0.99
    warmup: Natural = 100
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    decay_every: Natural = 0
    decay: Annotated[float, Within(above=0, below=1)] = 0.5
    clip: Positive = 5.0
    accumulate: Count = 1
    recompute: bool = False
    average: BelowOne = 0.0
    precision: Literal["auto", "bf16", "32"] = "auto"
    compile: Literal["auto", "on", "graphs", "off"] = "auto"
    validate_every: Count = 500
    n_validation: Count = 200
    patience: Natural = 0
    max_skipped: Count = 20
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    devices: Count | Literal["auto"] = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    timeout: Positive = 1800.0

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_choices()
        self._check_engine()

    def _check_choices(self) -> None:
        for name, (choice, having) in DEPENDENT_OPTIONS.items():
            value, default, chosen = getattr(self, name), getattr(OuterLoop, name), getattr(self, choice)
            if chosen not in having and value != default:
                raise ValueError(
                    f"expected {name} at its default, {default}, with {choice} {chosen!r}, which has no such option, "
                    f"got {value}; leave {name} out, or use {choice} {' or '.join(map(repr, having))}"
                )
        if self.schedule == "step" and not self.decay_every:
            raise ValueError(
                "expected decay_every of at least 1 with schedule 'step', got 0; give the steps between two decays of "
                "the learning rate"
            )

    def _check_engine(self) -> None:
        if self.strategy.endswith(("spawn", "fork", "notebook")):
            raise ValueError(
                f'expected a strategy that starts processes by running the command again ("ddp", "fsdp", "auto"), '
                f"got {self.strategy!r}"
            )
        if self.sharded and (not isinstance(self.devices, int) or self.devices * self.num_nodes < 2):
            raise ValueError(f"expected a number of devices, two in all at least, with fsdp, got {self.devices!r}")
        if self.sharded and self.optimizer == "muon":
            raise ValueError("expected fsdp without muon, which needs unsharded matrices, got both; use ddp or adamw")
        if self.sharded and (self.average or self.compile in ("on", "graphs")):
            raise ValueError(
                "expected fsdp without average and compile, which need unsharded weights, got "
                f"{self.average} and {self.compile!r}; use ddp"
            )

    @property
    def sharded(self) -> bool:
        """Whether weights are sharded between steps."""
        return self.strategy == "fsdp"

    def lr_at(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then as `schedule` says (cosine: Loshchilov & Hutter 2017)."""
        peak = self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        if self.schedule == "constant":
            return peak
        if self.schedule == "step":
            return peak * self.decay ** (step // self.decay_every)
        return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))
