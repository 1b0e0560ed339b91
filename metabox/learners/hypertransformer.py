"""HyperTransformer: phi is the weights of a small convolutional network, generated from the support layer by layer."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.generated import task_conv2d, task_linear
from metabox.nn.norm import Context, Norm, NormKind
from metabox.nn.sets import membership
from metabox.ranges import Count
from metabox.targets import Classes, TaskSpec


class HyperTransformer(Learner):
    """HyperTransformer (Zhmoginov et al. 2022, "HyperTransformer: Model Generation for Supervised and Semi-Supervised
    Few-Shot Learning", section 3; sizes and details from the authors' code).

    Generated for each task: the kernels of `layers` convolutions (3x3, without biases), and the weights and biases of
    the logits layer, which reads the flattened last map. Learned and shared by all tasks: scale and shift of the
    batch norms, the feature extractors, the embeddings of labels and weights, and one transformer for each layer.

    The layers are generated from the first to the last. For layer l the transformer reads, as one set without
    positions, the support's tokens and the placeholders of layer l's weights:

    * token of a support example: [label embedding; local features; global features], where the local features are a 3x3
      convolution, averaged over the map, of layer l's input from the layers generated so far, and the global features
      are the same for every layer;
    * token of a slice of weights: [weight embedding; zeros].

    A slice is the weights of one output channel, for logits of one class: the "output" allocation, which the paper's
    experiments use (a slice of the "spatial" one is one position of the kernel). The transformer's output at its
    placeholder, behind the embedding, is the slice. A generated convolution is followed by batch norm, ReLU and 2x2
    max-pooling.

    A vector is an image of one pixel: kernels are 1x1, which makes linear layers, and there is no pooling. A descriptor
    is added to the weight embeddings by a linear map.

    Deviations: supervised only, without tokens for unlabelled images. Batch norm has running statistics in evaluation,
    so that queries do not influence each other; the authors' code uses those of each batch. The transformers normalise
    before attention and feed-forward, and once at the end; the paper's normalise after each. Generated weights are
    divided by the root of a slice's length. The global features are a linear map of any backbone's, where the authors
    have a network of four convolutions with 32 channels. There are no auxiliary heads.

    Args:
        spec: the tasks; classes.
        backbone: maps inputs to features for the global features; by default Conv4 for images, an MLP for vectors.
        layers: generated convolutions.
        channels: of each of them, 8 in the authors' recipe for Omniglot.
        embedding: width of the label and weight embeddings.
        local_features: width of the local features.
        global_features: width of the global features.
        depth: layers of a transformer.
        heads: attention heads of a transformer.
        norm: whose statistics normalise the generated network's images (see `metabox.nn.norm.Norm`); "transductive"
            in the paper.

    Raises:
        ValueError: if the images are too small for so many poolings.
    """

    method = Method(
        adapt=(
            ("tokens of the support", r"t_n = [e_{y_n}, \net{local}_j(h_n^{j-1}), \net{global}(x_n)]"),
            (
                "placeholders of weights",
                r"W_j = \net{transformer}_j\big(\{t_n\}_n \cup \{\text{slices of } W_j\}\big)",
            ),
            (
                "layer by layer",
                r"\task = \{W_1, \ldots, W_L, W_{\mathrm{logits}}\}, \quad h_n^j = \net{relu}\big(\net{BN}(W_j "
                r"* h_n^{j-1})\big)",
            ),
        ),
        predict=(
            ("generated CNN", r"h = \net{relu}\big(W_L * \cdots \net{relu}(W_1 * x)\big), \quad W_j \in \task"),
            ("generated logits", r"p(y = c \mid x, \task) = \softmax_c\big(W_{\mathrm{logits}} h\big)"),
        ),
        cost=("N^2", "M C"),
        kin={
            "HyperNetwork": "a transformer reads the support and writes each layer, in place of a mean and a perceptron"
        },
        exports=False,
    )
    targets = (Classes,)

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        layers: Count = 4,
        channels: Count = 8,
        embedding: Count = 32,
        local_features: Count = 8,
        global_features: Count = 32,
        depth: Count = 3,
        heads: Count = 2,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__(spec)
        self.transductive = norm == "transductive"  # type: ignore[misc]  # a class attribute elsewhere
        self.embed = Embedding(spec, backbone)
        self.shared = nn.Linear(self.embed.out_features, global_features)
        self.is_image = len(spec.x_shape) == 3
        inputs, *size = spec.x_shape if self.is_image else (math.prod(spec.x_shape), 1, 1)
        self.locals, self.generators, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.shapes = []  # of the generated kernels
        for i in range(layers + 1):
            if not math.prod(size):
                raise ValueError(f"expected images that {layers} poolings leave something of, got {spec.x_shape}")
            kernel = 3 if self.is_image else 1
            is_last = i == layers
            shape = (spec.target.size, inputs * math.prod(size) + 1) if is_last else (channels, inputs, kernel, kernel)
            self.shapes.append(shape)
            self.locals.append(nn.Conv2d(inputs, local_features, min(kernel, *size)))
            features, slices, block = local_features + global_features, shape[0], math.prod(shape[1:])
            self.generators.append(WeightGenerator(spec, embedding, features, slices, block, depth, heads))
            if not is_last:
                self.norms.append(Norm(channels, norm, str(i)))
            inputs, size = channels, [side // 2 if self.is_image else side for side in size]

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `kernel.i [T, C', C, k, k]` of convolution i, `logits [T, C, F + 1]`, the bias last.

        And if the norm uses the support, its statistics `norm.i [T, 2, C']`, `count.i [T]`.
        """
        features, _ = self.embed.adapt(support, descriptor)
        features = self.shared(features)
        member = membership(support.y, support.mask, self.spec.target.size)
        x, phi = self._image(support.x), Phi()
        context = Context(mask=support.mask, n_tasks=len(x))
        for i, (local, generate) in enumerate(zip(self.locals, self.generators, strict=True)):
            seen = local(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
            weights = generate(torch.cat([seen, features], dim=-1), member, support.mask, descriptor)
            if i == len(self.norms):
                phi["logits"] = weights
            else:
                phi[f"kernel.{i}"] = weights.unflatten(-1, self.shapes[i][1:])
                x = self._layer(i, x, phi, context)
        return phi | context.measured

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        x, context = self._image(x), Context(known=phi, n_tasks=len(x))
        for i in range(len(self.norms)):
            x = self._layer(i, x, phi, context)
        return task_linear(x.flatten(2), phi["logits"][..., :-1], phi["logits"][..., -1])

    def _image(self, x: Tensor) -> Tensor:
        """`[T, N, *x_shape]` -> `[T, N, channels, height, width]`."""
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return x if self.is_image else x.flatten(2)[..., None, None]

    def _layer(self, i: int, x: Tensor, phi: Phi, context: Context) -> Tensor:
        """Generated convolution i, norm, ReLU and pooling: `[T, N, C, H, W]` -> `[T, N, C', H', W']`."""
        weight, lead = phi[f"kernel.{i}"], x.shape[:2]
        x = task_conv2d(x, weight, padding=weight.shape[-1] // 2).flatten(0, 1)
        if len(x):  # an empty support has no statistics
            x = self.norms[i](x, context)
        x = x.relu()
        h: Tensor = (F.max_pool2d(x, 2) if self.is_image else x).unflatten(0, lead)
        return h


class WeightGenerator(nn.Module):
    """A transformer that reads a support and outputs `slices` slices of `block` weights each.

    Args:
        spec: the tasks.
        embedding: width of the label and weight embeddings.
        features: width of the support's features.
        slices: how many to write.
        block: weights in a slice.
        depth: layers.
        heads: attention heads.
    """

    decayed = ()  # labels and weights are embeddings

    def __init__(
        self, spec: TaskSpec, embedding: int, features: int, slices: int, block: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        self.block = block
        self.width = math.ceil((embedding + max(features, block)) / heads) * heads
        self.labels = nn.Parameter(torch.randn(spec.target.size, embedding))
        self.weights = nn.Parameter(torch.randn(slices, embedding))
        self.describe = nn.Linear(spec.descriptor_size, embedding, bias=False) if spec.descriptor_size else None
        make = partial(nn.TransformerEncoderLayer, self.width, heads, self.width, batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(make(dropout=0.0) for _ in range(depth))
        # No bias: a shift of the logits' weights that all classes share would have no effect.
        self.norm = nn.LayerNorm(self.width, bias=False)

    def forward(self, features: Tensor, member: Tensor, mask: Tensor, descriptor: Tensor | None = None) -> Tensor:
        """Features `[T, N, F]`, member `[T, N, C]`, mask `[T, N]`, descriptor `[T, dz]` -> `[T, slices, block]`."""
        (slices, embedding), t = self.weights.shape, len(features)
        places = self.weights.expand(t, -1, -1)
        if self.describe and descriptor is not None:
            places = places + self.describe(descriptor)[:, None]
        samples = torch.cat([member.to(features.dtype) @ self.labels, features], dim=-1)
        tokens = torch.cat([F.pad(part, (0, self.width - part.shape[-1])) for part in (places, samples)], dim=1)
        hidden = F.pad(~mask, (slices, 0), value=False)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=hidden)
        written: Tensor = self.norm(tokens[:, :slices])[..., embedding : embedding + self.block]
        return written / math.sqrt(self.block)
