"""Images as functions from the plane to colours, to be completed from a few pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metabox.arrays import Booleans
from metabox.data.preprocessing import Preprocessing
from metabox.episodes import Device, Episodes, Examples
from metabox.ranges import Count, CountOrRange, NaturalOrRange, Real
from metabox.targets import Reals, TaskSpec
from metabox.tasks.functions.base import Sized, padded
from metabox.tasks.images.glyphs import Glyphs
from metabox.tasks.nway import NWayKShot
from metabox.tasks.place import Place
from metabox.tasks.sampler import EpisodeSampler


class ImageCompletion(Sized, EpisodeSampler):
    """Image completion: x is a pixel's place, y its colour (Garnelo et al. 2018, "Conditional neural processes").

    A task is an image, drawn from a class drawn uniformly from the split. x = (row, column), evenly spaced in
    [low, high]², y = grey value or colours in [0, 1]. Garnelo et al. have x in [0, 1]² and ask for all pixels; Nguyen
    & Grover 2022 ("Transformer neural processes") have x in [-1, 1]², n_support [3, 196], n_query [3, 196], max_points
    199, and y shifted to [-0.5, 0.5].

    Args:
        images: any N-way K-shot sampler of images, whose way, shot and augmentation are not used; by default `Glyphs`.
        low: place of the first row and column.
        high: place of the last row and column.
        n_support: pixels that are shown, or a range.
        n_query: pixels to predict, or a range, none of them shown; None for all pixels of the image.
        max_points: most pixels of a task, support and query together, if n_query is given.
        share_sizes: this many consecutive tasks have the same sizes.

    Raises:
        ValueError: if an option is out of range; at the first use, if an image has fewer pixels.
    """

    def __init__(
        self,
        images: NWayKShot | None = None,
        low: Real = -1.0,
        high: Real = 1.0,
        n_support: NaturalOrRange = (3, 196),
        n_query: CountOrRange | None = None,
        max_points: Count | None = None,
        share_sizes: Count = 16,
    ) -> None:
        super().__init__(n_support, 1 if n_query is None else n_query, max_points, share_sizes)
        if not low < high:
            raise ValueError(f"expected low < high, got {low} and {high}")
        self.all_pixels = n_query is None
        self.low, self.high = low, high
        self._sampler = Glyphs() if images is None else images

    @property
    def spec(self) -> TaskSpec:  # type: ignore[override]  # computed here, an attribute elsewhere
        return TaskSpec(x_shape=(2,), target=Reals(self._sampler.images.image_shape[0]))

    @property
    def preprocessing(self) -> Preprocessing | None:  # type: ignore[override]  # of the images
        return self._sampler.preprocessing

    def fingerprint(self) -> str:
        return self._sampler.fingerprint()

    def sample(self, place: Place, device: Device = "cpu") -> Episodes:
        """A batch of images; see `EpisodeSampler.sample`. `origin` is the image's id at each of its pixels."""
        images = self._sampler.images
        channels, height, width = images.image_shape
        n_pixels = height * width
        most = self.n_support[1] if self.all_pixels else self.n_points
        if most > n_pixels:
            raise ValueError(
                f"expected at most {n_pixels} points, the pixels of an image, got {most}; lower n_support or max_points"
            )
        if not len(images.splits.get(place.split, ())):
            raise ValueError(f"expected a split with classes among {sorted(images.splits)}, got {place.split!r}")
        n_support, n_query = self.sizes(place, type(self).__name__)
        draws = place.draws(type(self).__name__)
        classes = np.asarray(images.splits[place.split])
        classes = classes[draws.integers("class", 0, len(classes) - 1)]
        items = draws.integers("item", 0, images.sizes[classes] - 1)
        ids = images.ids(classes, items)
        colours = images.pictures(torch.from_numpy(ids), device).view(place.n_tasks, channels, n_pixels).mT
        order = draws.shuffled("pixels", np.zeros((1, n_pixels), dtype=np.bool_))[..., None]
        shown = padded(order, 0, n_support)
        if self.all_pixels:
            every = np.broadcast_to(np.arange(n_pixels)[:, None], order.shape)
            asked = padded(every, 0, np.full(place.n_tasks, n_pixels))
        else:
            asked = padded(order, n_support, n_query)
        origin = np.where(np.concatenate([shown[1], asked[1]], axis=1), ids[:, None], -1)
        return Episodes(
            support=self._examples(colours, *shown),
            query=self._examples(colours, *asked),
            origin=torch.from_numpy(origin).to(device),
        )

    def _examples(self, colours: Tensor, pixel: np.ndarray, mask: Booleans) -> Examples:
        """The pixels `[T, W, 1]` of the images `[T, H W, channels]`, zero outside the mask."""
        _, height, width = self._sampler.images.image_shape
        row, column = np.divmod(pixel[..., 0], width)
        at = [np.linspace(self.low, self.high, side)[i] for side, i in ((height, row), (width, column))]
        x = np.where(mask[..., None], np.stack(at, axis=-1), 0).astype(np.float32)
        index, real = (torch.from_numpy(part).to(colours.device) for part in (pixel, mask))
        y = colours.gather(1, index.expand(-1, -1, colours.shape[2])).float() * (1 / 255)  # one product: the same bits
        y = torch.where(real[..., None], y, 0)
        return Examples(x=torch.from_numpy(x).to(colours.device), y=y, mask=real)
