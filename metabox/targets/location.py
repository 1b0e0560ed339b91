"""Reals whose errors have one density of fixed shape and scale; only its location is predicted."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from metabox.targets.base import weighted_mean
from metabox.targets.vector import RealVector, quantiles_of


class LocationFamily(RealVector):
    """dy independent numbers with density `exp(-cost(z - f)) / Z` of scale 1 in standard units; P = dy: f.

    The loss is the cost alone, summed over the numbers. A subclass says what it is and what follows from it.
    """

    @abstractmethod
    def cost(self, error: Tensor) -> Tensor:
        """The loss of each error z - f, of any shape."""

    @property
    @abstractmethod
    def log_normaliser(self) -> float:
        """log Z, of the integral of exp(-cost)."""

    @property
    @abstractmethod
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the errors."""

    @abstractmethod
    def error_quantile(self, q: Tensor) -> Tensor:
        """The q-quantile of the errors."""

    @property
    def n_params(self) -> int:
        return self.size

    def loss(self, params: Tensor, y: Tensor) -> Tensor:
        own, z = self.standard(params, y)
        return self.cost(z - own.float()).sum(-1)

    def log_prob(self, params: Tensor, y: Tensor) -> Tensor:
        _, units = self.split_units(params)
        density = -self.loss(params, y) - self.size * self.log_normaliser
        return density if units is None else density - units[1].float().log().sum(-1)  # the Jacobian

    def location(self, params: Tensor) -> Tensor:
        """f in the units of y, `[..., dy]`."""
        return self._in_units(params, torch.zeros(()))

    def mean(self, params: Tensor) -> Tensor:
        return self._in_units(params, torch.tensor(self.moments[0]))

    def std(self, params: Tensor) -> Tensor:
        own, units = self.split_units(params)
        deviation = torch.full_like(own.float(), self.moments[1])
        return deviation if units is None else units[1] * deviation

    def quantile(self, params: Tensor, q: float | Tensor) -> Tensor:
        own, _ = self.split_units(params)
        return self._in_units(params, self.error_quantile(quantiles_of(q, own.float())))

    def _in_units(self, params: Tensor, error: Tensor) -> Tensor:
        own, units = self.split_units(params)
        z = own.float() + error.to(own.device)
        return z if units is None else units[0] + units[1] * z

    def scores(self, params: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The absolute error of f, in the units of y."""
        return {"absolute_error": (self.location(params) - y).abs().mean(-1)}

    def mixture(self, params: Tensor, weights: Tensor | None = None) -> Tensor:
        """The same density about the mean of all f."""
        own, units = self.split_units(params)
        if units is None:
            return weighted_mean(own.float(), weights)
        first = [part[:, 0] for part in units]
        z = (self.location(params) - first[0][:, None]) / first[1][:, None]
        return self.in_units(weighted_mean(z, weights), *first)
