"""Hypernetwork: phi is the weights of a network, generated from a code of the support."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.generated import StaticHyper, task_conv2d, task_linear
from metabox.nn.mlp import Perceptron
from metabox.nn.pairing import pairing
from metabox.nn.sets import class_mean, masked_mean
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec


class HyperNetwork(Learner):
    """A static hypernetwork (Ha et al. 2017, "HyperNetworks", section 3.1) whose embeddings come from the support.

    The support, and the descriptor if there is one, become a task code: c = [mean_i e(x_i, y_i), z]. A target network
    with weights generated from c answers the queries. With `layers` of 1 or more it is

        first layer (shared, not generated) -> `layers` generated layers -> generated head

    on the raw input, where the weights of generated layer j are K^j = g(z^j) with the two-layer linear g of the
    paper's equation 2, shared by all layers, and the layer embedding z^j is a linear map of c. On images the layers
    are 3x3 convolutions, each followed by ReLU and 2x2 max-pooling; on vectors they are linear, followed by ReLU.
    With `layers=0` the target network is the generated head alone, on the features of the backbone.

    A perceptron of two layers generates the head from c. For classes it does so row by row: the row of a class from the
    mean of e(x_i) over that class and the task code (the aggregation of conditional neural processes), so that any way
    works and renaming the classes renames the predictions.

    Deviations: in the paper z^j is a learned constant, since one network serves one task; here it is inferred. The
    paper tiles large kernels from basic ones (equation 3); here all generated layers have one size. It uses batch norm
    in its deep networks; here the activations of each input are normalised separately before ReLU, since statistics
    over tasks mean little when every task has its own weights.

    Args:
        spec: the tasks.
        backbone: maps inputs to the features that the support's code is computed from; by default Conv4 for images, an
            MLP for vectors.
        width: units of the set encoder and size of its code.
        layers: generated layers below the head.
        channels: of the target network's layers (units, on vectors).
        embedding: N_z, size of a layer embedding; 64 for the deep networks of the paper (section 4.2).

    Raises:
        ValueError: if the images are too small for so many poolings.
    """

    method = Method(
        adapt=(
            ("encode each pair", r"r_n = \net{MLP}_e(\known_n, y_n)"),
            ("task code", r"c = \Big[\frac{1}{N} \sum_n r_n, \z\Big]"),
            ("generate weights", r"\task = \{W_1, \ldots, W_L, W_{\mathrm{head}}\}, \quad W_j = g(A_j c)"),
        ),
        predict=(
            ("target network", r"h = \net{relu}\big(W_L \cdots \net{relu}(W_1 h_0(x))\big), \quad W_j \in \task"),
            ("generated head", r"p(y \mid x, \task) = p\big(y; W_{\mathrm{head}} h\big)"),
        ),
        cost=("N", "M C"),
        kin={"CNP": "the code becomes the weights of a network, in place of an input of one"},
        exports=False,
    )
    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        layers: Natural = 1,
        channels: Count = 16,
        embedding: Count = 64,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        self.pairing = pair = pairing(spec.target)
        self.encoder = Perceptron(self.embed.out_features + pair.label_size, width, width)
        code = width + spec.descriptor_size
        self.layers, self.is_image = layers, len(spec.x_shape) == 3
        features = self.embed.out_features
        if layers:
            # A vector is an image of one pixel, and a linear layer a 1x1 convolution of it.
            kernel = 3 if self.is_image else 1
            inputs, size = spec.x_shape[0], spec.x_shape[1:]
            if not self.is_image:
                inputs, size = math.prod(spec.x_shape), (1, 1)
            self.first = nn.Conv2d(inputs, channels, kernel, padding=kernel // 2)
            self.embeddings = nn.Linear(code, layers * embedding)
            self.generate = StaticHyper(embedding, channels, channels, kernel)
            left = [side >> (layers + 1) if self.is_image else 1 for side in size]
            if not math.prod(left):
                raise ValueError(f"expected images that {layers + 1} poolings leave something of, got {spec.x_shape}")
            features = channels * math.prod(left)
        sources = (pair.codes - 1) * width + code
        self.head = Perceptron(sources, width, pair.outputs * (features + 1), depth=2, bias=pair.bias)
        self.features = features

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `weight.j [T, channels, channels, k, k]` of layer j, `head [T, P, F + 1]`, the bias last.

        And the task statistics, if the head reads the backbone's features (`layers=0`).
        """
        h, phi = self.embed.adapt(support, descriptor)
        r = self.encoder(self.pairing.pairs(h, support))
        code = masked_mean(r, support.mask)
        if descriptor is not None:
            code = torch.cat([code, descriptor.to(code.dtype)], dim=-1)
        if self.layers:
            z = self.embeddings(code).unflatten(-1, (self.layers, -1))
            phi = {f"weight.{j}": weight for j, weight in enumerate(self.generate(z).unbind(1))}
        head = self.head(*self.pairing.sources(class_mean(r, self.pairing.groups(support)), code))
        head = head.unflatten(-1, (self.pairing.outputs, -1)).flatten(1, 2)
        # Scaled so that initial predictions are of moderate size for any number of features.
        phi["head"] = head / math.sqrt(self.features)
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self._target(phi, x) if self.layers else self.embed(x, phi)
        head = phi["head"]
        return task_linear(h, head[..., :-1], head[..., -1])

    def _target(self, phi: Phi, x: Tensor) -> Tensor:
        """Features of the target network: x `[T, M, *x_shape]` -> `[T, M, F]`."""
        t, m = x.shape[:2]
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        x = x if self.is_image else x.reshape(t, m, -1, 1, 1)
        h = self._after(self.first(x.flatten(0, 1)))
        for j in range(self.layers):
            weight = phi[f"weight.{j}"]
            y = task_conv2d(h.unflatten(0, (t, m)), weight, padding=weight.shape[-1] // 2)
            h = self._after(y.flatten(0, 1))
        features: Tensor = h.flatten(1).unflatten(0, (t, m))
        return features

    def _after(self, h: Tensor) -> Tensor:
        h = torch.relu(F.group_norm(h, 1))
        return F.max_pool2d(h, 2) if self.is_image else h
