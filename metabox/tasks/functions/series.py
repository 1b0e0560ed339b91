"""Made-up series of one input: trends, cycles, walks, jumps, and noise of many kinds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metabox.arrays import Booleans, Floats, Integers
from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count, CountOrRange, NaturalOrRange
from metabox.seeding import Draws
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import Sized, padded
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler

FEATURES = 40  # random frequencies of a smooth process
HARMONICS = 5
BURN_IN = 20  # steps of an autoregression before its first point


class Series(Sized, EpisodeSampler):
    """A broad prior over series: what a learner of any one-dimensional regression may be trained on.

    A series is a sum of some of these, each of random size: a smooth process of spectral density RBF or Matern (3/2,
    5/2) with a long length scale, and one with a short; a cycle whose shape, phase and height drift; a trend, straight,
    bent or levelling off; jumps; an autoregression of order one or two, a random walk at the limit; and now and then
    the product of two. The noise on it is a share of its size, .003 to 3, normal or heavy-tailed, the same everywhere
    or not. A part of the series is then exponentiated or squared, as what is positive and skewed (counts, say) often
    is, some are cut off below, some rounded.

    Inputs are a regular grid in [0, 1], or one with jitter or with gaps, or uniform. Support and query are a random
    partition of the points; in one series of ten a block of neighbours is all query.

    The definition is our own. A learner needs `scale="support"` to find such structure in the user's units.

    Args:
        n_support: support points, or a range.
        n_query: query points, or a range.
        max_points: most points of a task, support and query together.
        share_sizes: this many consecutive tasks have the same sizes.

    Raises:
        ValueError: if an option is out of range.
    """

    def __init__(
        self,
        n_support: NaturalOrRange = (3, 100),
        n_query: CountOrRange = (3, 100),
        max_points: Count | None = None,
        share_sizes: Count = 16,
    ) -> None:
        super().__init__(n_support, n_query, max_points, share_sizes)
        self.spec = TaskSpec(x_shape=(1,), target=Reals(1))

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of series; see `EpisodeSampler.sample`."""
        n_support, n_query = self.sizes(place, type(self).__name__)
        draws, n, count = place.draws(type(self).__name__), self.n_points, n_support + n_query
        there = np.arange(n) < count[:, None]
        x = _inputs(draws, count, n)
        y = _warped(draws, _noisy(draws, x, _signal(draws, x, count, there), there), there)
        y = np.where(there, y, 0)
        order = _partition(draws, count, there, n_query)
        ordered = [np.take_along_axis(part, order, 1)[..., None].astype(np.float32) for part in (x, y)]
        parts = []
        for start, of in ((0, n_support), (n_support, n_query)):
            (px, mask), (py, _) = (padded(part, start, of) for part in ordered)
            parts.append(Examples(x=torch.from_numpy(px), y=torch.from_numpy(py), mask=torch.from_numpy(mask)))
        return Episodes(support=parts[0], query=parts[1]).to(device)


def _chance(draws: Draws, name: str, p: float) -> Booleans:
    """True with probability p, `[T, 1]`."""
    found: Booleans = draws.uniform(name, 0, 1, 1) < p
    return found


def _log_uniform(draws: Draws, name: str, low: float, high: float) -> Floats:
    values: Floats = np.exp(draws.uniform(name, np.log(low), np.log(high), 1))
    return values


def _inputs(draws: Draws, count: Integers, n: int) -> Floats:
    """Sorted points in about [0, 1], `[T, n]`, of which the first `count` are used."""
    place, kind = np.arange(n), draws.uniform("design", 0, 1, 1)
    gap = 1 / np.maximum(count - 1, 1)[:, None]
    u = draws.uniform("x", 0, 1, n)
    regular = place * gap
    jittered = regular + gap * 0.7 * (u - 0.5)
    missing = np.cumsum(np.where(u < 0.3, 1 + 6 * (u / 0.3) ** 3, 1.0), 1) * gap / 2
    steps = np.cumsum(-np.log(u), 1)  # a Poisson process: uniform given its last point
    uniform = steps / np.take_along_axis(steps, count[:, None] - 1, 1)
    chosen: Floats = np.where(kind < 0.6, regular, np.where(kind < 0.7, jittered, uniform))
    return np.where((kind >= 0.7) & (kind < 0.85), missing, chosen)


def _standard(values: Floats, there: Booleans) -> Floats:
    """At mean 0 and standard deviation 1 over the points that are there; zeros if they are constant."""
    k = there.sum(1, keepdims=True)
    values = values - (values * there).sum(1, keepdims=True) / k
    deviation = np.sqrt((values * values * there).sum(1, keepdims=True) / k)
    found: Floats = values / np.maximum(deviation, 1e-9)
    return found


def _smooth(draws: Draws, name: str, x: Floats, length: Floats) -> Floats:
    """A stationary process by random frequencies (Rahimi & Recht 2007): RBF or Matern of length scale `[T, 1]`."""
    z = draws.normal(f"{name}/frequency", FEATURES)
    freedom = draws.integers(f"{name}/kind", 0, 3, 1)  # frequencies of Matern are Student t with 2 nu degrees: 3 or 5
    square = draws.normal(f"{name}/square", FEATURES, 5) ** 2
    heavy = np.where(freedom == 0, square[..., :3].mean(-1), square.mean(-1))
    frequency = z / np.where(freedom <= 1, np.sqrt(heavy), 1) / length
    # Of normal weights of cosine and sine: a Rayleigh height and a uniform phase. Single precision takes half the time.
    height = np.sqrt(-2 * np.log(draws.uniform(f"{name}/height", 0, 1, FEATURES)) / FEATURES)
    phase = draws.uniform(f"{name}/phase", 0, 2 * np.pi, FEATURES)
    waves, height = np.stack([frequency, phase]).astype(np.float32), height.astype(np.float32)
    angle = x.astype(np.float32)[:, :, None] * waves[0][:, None] + waves[1][:, None]
    found: Floats = (np.cos(angle, out=angle) * height[:, None]).sum(-1).astype(np.float64)
    return found


class _Slow(NamedTuple):
    """Slow processes that other parts drift with, each `[T, n]`."""

    height: Floats
    phase: Floats
    noise: Floats


def _slow(draws: Draws, x: Floats) -> _Slow:
    """Three cheap smooth processes, of a few waves each."""
    found = []
    for name in _Slow._fields:
        rate = _log_uniform(draws, f"slow/{name}/rate", 1.0, 25.0)
        angle, amplitude = draws.uniform(f"slow/{name}/angle", 0, 2 * np.pi, 4), draws.normal(f"slow/{name}/size", 4)
        waves = rate[..., None] * np.array([0.3, 0.6, 0.8, 1.0])
        found.append((np.sin(x[:, :, None] * waves + angle[:, None]) * amplitude[:, None]).sum(-1) / np.sqrt(2))
    return _Slow(*found)


def _cycle(draws: Draws, x: Floats, count: Integers, slow: _Slow) -> Floats:
    """A few harmonics, whose height and phase drift."""
    most = np.maximum(count / 4, 1.5)[:, None]
    cycles = np.exp(draws.uniform("cycle/number", 0, 1, 1) * np.log(most / 0.7)) * 0.7
    falling = draws.uniform("cycle/falling", 0.5, 4, 1)
    k = np.arange(1, HARMONICS + 1)
    size = k**-falling * draws.normal("cycle/size", HARMONICS)
    size[:, 0] = 1
    drift = np.where(_chance(draws, "cycle/drifts", 0.5), _log_uniform(draws, "cycle/drift", 0.05, 3), 0)
    turn = 2 * np.pi * cycles * x + drift * slow.phase
    angle = draws.uniform("cycle/angle", 0, 2 * np.pi, HARMONICS)
    wave = np.zeros_like(x)
    for i in range(HARMONICS):
        wave += size[:, i, None] * np.sin((i + 1) * turn + angle[:, i, None])
    sharp = np.where(_chance(draws, "cycle/saw", 0.1), (turn / (2 * np.pi)) % 1, wave)
    swell = np.where(_chance(draws, "cycle/swells", 0.4), draws.uniform("cycle/swell", 0, 0.8, 1), 0)
    found: Floats = sharp * np.exp(swell * slow.height)
    return found


def _trend(draws: Draws, x: Floats) -> Floats:
    bend, at = draws.normal("trend/bend", 1), draws.uniform("trend/at", 0, 1, 1)
    steep = _log_uniform(draws, "trend/steep", 2, 40)
    kind = draws.integers("trend/kind", 0, 3, 1)
    curved = np.where(kind == 0, x + bend * x * x, np.tanh(np.clip(steep * (x - at) / 2, -50, 50)))
    hinged = x * draws.normal("trend/slope", 1) + bend * np.maximum(x - at, 0)
    found: Floats = np.where(kind == 1, x, np.where(kind == 2, hinged, curved))
    return found


def _jumps(draws: Draws, x: Floats) -> Floats:
    most = 6
    absent = np.arange(most) >= draws.integers("jumps", 1, most, 1)
    at, size = draws.uniform("jumps/at", 0, 1, most), draws.normal("jumps/size", most)
    found: Floats = ((x[:, :, None] > at[:, None]) * np.where(absent, 0, size)[:, None]).sum(-1)
    return found


def _autoregression(draws: Draws, n: int) -> Floats:
    """y_i = 2 r cos(w) y_(i-1) - r² y_(i-2) + e_i, or y_i = r y_(i-1) + e_i; to r = 1, a random walk."""
    fade = _log_uniform(draws, "walk/fade", 0.003, 1.0)[:, 0]
    r = np.exp(-fade)
    turns = _chance(draws, "walk/turns", 0.4)[:, 0]
    w = 2 * np.pi / _log_uniform(draws, "walk/period", 5, 40)[:, 0]
    first, second = np.where(turns, 2 * r * np.cos(w), r), np.where(turns, -r * r, 0)
    e = draws.normal("walk/e", BURN_IN + n).T.copy()
    y = np.empty_like(e)
    y[0], y[1] = e[0], first * e[0] + e[1]
    for i in range(2, len(e)):
        y[i] = first * y[i - 1] + second * y[i - 2] + e[i]
    found: Floats = y[BURN_IN:].T
    return found


def _signal(draws: Draws, x: Floats, count: Integers, there: Booleans) -> Floats:
    """The sum of the parts that a task has, standardised."""
    slow = _slow(draws, x)
    long = _smooth(draws, "long", x, _log_uniform(draws, "long/length", 0.1, 2.0))
    least = 1.0 / np.maximum(count, 6)[:, None]
    short = np.exp(draws.uniform("short/length", 0, 1, 1) * np.log(0.25 / least)) * least
    parts = {
        "long": (0.45, long),
        "short": (0.35, _smooth(draws, "short", x, short)),
        "cycle": (0.4, _cycle(draws, x, count, slow)),
        "trend": (0.35, _trend(draws, x)),
        "jumps": (0.12, _jumps(draws, x)),
        "walk": (0.4, _autoregression(draws, x.shape[1])),
    }
    total, unit = np.zeros_like(x), {}
    for name, (p, values) in parts.items():
        unit[name] = _standard(values, there)
        total += np.where(_chance(draws, f"has {name}", p), _log_uniform(draws, f"size {name}", 0.1, 3), 0) * unit[name]
    total = np.where(np.abs(total).max(1, keepdims=True) == 0, unit["long"], total)
    product = unit["cycle"] * unit["long"]
    return _standard(np.where(_chance(draws, "product", 0.04), product + 0.3 * total, total), there)


def _noisy(draws: Draws, x: Floats, signal: Floats, there: Booleans) -> Floats:
    size = np.where(
        _chance(draws, "noise/large", 0.5),
        _log_uniform(draws, "noise/size", 0.1, 3),
        _log_uniform(draws, "noise/small", 0.003, 0.3),
    )
    e = draws.normal("noise", x.shape[1])
    spread = (draws.normal("noise/spread", x.shape[1], 4) ** 2).mean(-1)
    e = np.where(_chance(draws, "noise/heavy", 0.2), e / np.sqrt(spread), e)  # Student t with 4 degrees of freedom
    uneven = np.where(_chance(draws, "noise/uneven", 0.25), draws.uniform("noise/by", 0, 1, 1), 0)
    level = np.where(_chance(draws, "noise/by level", 0.5), signal, _slow(draws, x).noise)
    none = _chance(draws, "noise/none", 0.04)
    found: Floats = signal + np.where(none, 0, size) * np.exp(uneven * np.clip(level, -3, 3)) * e
    return found


def _warped(draws: Draws, y: Floats, there: Booleans) -> Floats:
    y = _standard(y, there)
    kind, by = draws.uniform("warp", 0, 1, 1), draws.uniform("warp/by", 0.2, 1.4, 1)
    sign = np.where(_chance(draws, "warp/sign", 0.15), -1, 1)
    skewed = np.exp(by * np.clip(sign * y, -6, 5))
    squared = (np.clip(sign * y, -6, 6) + draws.uniform("warp/from", 1, 4, 1)) ** 2
    y = np.where(kind < 0.25, skewed, np.where(kind < 0.35, squared, y))
    y = np.where(_chance(draws, "warp/cut", 0.04), np.maximum(y, draws.uniform("warp/at", -1, 0.3, 1)), y)
    y = _standard(y, there)
    step = _log_uniform(draws, "warp/step", 0.02, 0.5)
    rounded: Floats = np.where(_chance(draws, "warp/rounded", 0.12), np.round(y / step) * step, y)
    return rounded


def _partition(draws: Draws, count: Integers, there: Booleans, n_query: Integers) -> NDArray[np.int64]:
    """A random order of the points that are there, before all others; a block of neighbours may come last of them."""
    key = draws.uniform("order", 0, 1, there.shape[1])
    length = draws.uniform("block/length", 0.1, 0.9, 1) * n_query[:, None]
    start = draws.uniform("block/start", 0, 1, 1) * (count[:, None] - length)
    place = np.arange(there.shape[1])
    block = (place >= start) & (place < start + length) & _chance(draws, "block", 0.1)
    found: NDArray[np.int64] = np.argsort(key + block + 10 * ~there, axis=1)
    return found
