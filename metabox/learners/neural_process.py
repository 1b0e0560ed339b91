"""Neural process: a latent z beside the pooled code of the support. phi is the code and the distribution of z."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi, within
from metabox.likelihoods import Gaussian, Likelihood, likelihood_for
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.latent import LatentEncoder, PairEncoder
from metabox.nn.mlp import Perceptron
from metabox.nn.sets import class_mean, membership


class NeuralProcess(Learner):
    """What neural processes share: two encoders, a decoder, and predictions as a mixture over samples of z.

    A subclass says in `remember` and `code` how the deterministic path keeps the support's codes r_i and reads them.

    likelihood: how the samples' predictions are put together. Set it where the objective's is a `Gaussian` with
        another `min_scale`.
    """

    label_equivariant = True
    draws: Tensor

    def __init__(
        self,
        spec: TaskSpec,
        n_params: int,
        *,
        backbone: MakeBackbone | None,
        width: int,
        latent: int,
        n_samples: int,
        self_attention: int = 0,
        heads: int = 8,
    ) -> None:
        super().__init__(spec, n_params)
        if n_samples < 1:
            raise ValueError(f"expected n_samples of at least 1, got {n_samples}")
        self.embed = Embedding(spec, backbone)
        features = self.embed.out_features
        by_class = spec.target == "class"
        pair = features + (0 if by_class else spec.target_size)  # a class enters by grouping, not as a vector
        self.encoder = PairEncoder(pair, width, self_attention, heads)
        self.latent = LatentEncoder(pair, width, latent, self_attention, heads)
        inputs, outputs = features + (2 if by_class else 1) * width + latent, 1 if by_class else n_params
        self.decoder = Perceptron(inputs, width, outputs, bias=not by_class)
        uniform = SobolEngine(latent, scramble=True, seed=0).draw(n_samples).clamp(1e-4, 1 - 1e-4)
        self.register_buffer("draws", torch.special.ndtri(uniform))
        fixed_noise = spec.target == "real" and n_params == spec.target_size
        self.likelihood: Likelihood = Gaussian(spec, noise=1.0) if fixed_noise else likelihood_for(spec)

    @abstractmethod
    def remember(self, r: Tensor, h: Tensor, groups: Tensor) -> Phi:
        """Codes r_i `[T, N, R]` of inputs `[T, N, D]` in groups `[T, N, G]` to the deterministic part of phi.

        Groups are the classes, and all examples together as the last one; that one alone where there are no classes.
        """

    @abstractmethod
    def code(self, phi: Phi, h: Tensor) -> Tensor:
        """The code that a query `[T, M, D]` reads in each group: `[T, 1 or M, G, R]`."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `z_mean`, `z_scale [T, Z]` of q(z | s), and what `remember` adds.

        And what the embedding knows of the task.
        """
        h, phi = self.embed.adapt(support, descriptor)
        pairs, groups, everything = self._pairs(support, h)
        phi["z_mean"], phi["z_scale"] = self.latent(pairs, groups)
        if self.spec.target == "class":
            everything = torch.cat([groups, everything], dim=-1)
        return phi | self.remember(self.encoder(pairs, groups), h, everything)

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        draws = torch.randn_like(self.draws.expand(len(x), -1, -1)) if self.training else self.draws
        z = phi["z_mean"][:, None] + phi["z_scale"][:, None] * draws
        return self.likelihood.mixture(self.decode(phi, x, z))

    def encode(self, examples: Examples, descriptor: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """q(z | examples): mean and scale, each `[T, Z]`. That of the support is in phi, as `z_mean` and `z_scale`."""
        examples = self.check(examples, descriptor)
        return self.latent(*self._pairs(examples, self.embed.adapt(examples, descriptor)[0])[:2])

    def decode(self, phi: Phi, x: Tensor, z: Tensor) -> Tensor:
        """Natural parameters of p(y | x, r, z): x `[T, M, *x_shape]`, samples z `[T, S, Z]` -> `[T, S, M, P]`."""
        h = self.embed(x, phi)
        code = self.code(phi, h)[:, None].to(h.dtype)
        z = z.to(h.dtype)
        if self.spec.target != "class":
            return self.decoder(h[:, None], code[..., 0, :], z[:, :, None])
        # Score every (sample, query, class): [T, S, M, C, ...]
        scores = self.decoder(h[:, None, :, None], code[..., :-1, :], code[..., -1:, :], z[:, :, None, None])
        return within(scores.squeeze(-1), phi["classes"])

    def _pairs(self, examples: Examples, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(x_i, y_i) `[T, N, I]`, the groups that an encoder keeps apart `[T, N, G]`, and one group of all."""
        everything = examples.mask[..., None].float()
        if self.spec.target == "class":
            return h, membership(examples.y, examples.mask, self.spec.target_size), everything
        return torch.cat([h, examples.y.to(h.dtype)], dim=-1), everything, everything


class NP(NeuralProcess):
    """Neural process with a deterministic and a latent path (Garnelo et al. 2018b, "Neural Processes").

    r = mean_i h(x_i, y_i); s = mean_i h'(x_i, y_i); q(z | s) = N(mu(s), sigma(s)), sigma = 0.1 + 0.9 sigmoid(.);
    predictions = g(x, r, z). Train it with `LatentLoss`, the bound of equation 9. The deterministic path, the sizes
    and the form of sigma are those of Kim et al. 2019 ("Attentive Neural Processes", section 2) and of the notebook
    that its authors published (github.com/google-deepmind/neural-processes); the first paper draws z alone.

    Deviations: predictions are one distribution, not one for each sample of z. In evaluation z takes `n_samples`
    fixed quasi-random values, so that a prediction is a function of phi; their predictions are mixed, and for real
    targets the mixture is replaced by the normal with its mean and variance. In training `QueryLoss` draws z afresh.
    Classes, which neither paper has: r is pooled within each class and over all, and one decoder scores each class as
    in `CNP`; for z, s is pooled within each class and then over the classes, so renaming them leaves z as it was.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers and of the code r.
        latent: size of z.
        n_samples: samples of z in a prediction.
    """

    def __init__(
        self,
        spec: TaskSpec,
        n_params: int,
        *,
        backbone: MakeBackbone | None = None,
        width: int = 128,
        latent: int = 128,
        n_samples: int = 16,
    ) -> None:
        super().__init__(spec, n_params, backbone=backbone, width=width, latent=latent, n_samples=n_samples)

    def remember(self, r: Tensor, h: Tensor, groups: Tensor) -> Phi:
        """`codes [T, G, R]`."""
        return {"codes": class_mean(r, groups)}

    def code(self, phi: Phi, h: Tensor) -> Tensor:
        return phi["codes"][:, None]
