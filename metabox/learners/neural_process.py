"""Neural process: a pooled code of the support and a latent z. phi is the code and the distribution of z."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.latent import LatentEncoder, PairEncoder
from metabox.nn.mlp import Perceptron
from metabox.nn.pairing import pairing
from metabox.nn.sets import class_mean
from metabox.ranges import Count, Natural
from metabox.targets import TaskSpec


class NeuralProcess(Learner):
    """Base of neural processes: two encoders, a decoder, and predictions as a mixture over samples of z.

    A subclass defines in `remember` and `code` how the deterministic path stores and reads the support's codes r_i.
    """

    label_equivariant = True
    draws: Tensor

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None,
        width: Count,
        latent: Count,
        n_samples: Count,
        self_attention: Natural = 0,
        heads: Count = 8,
    ) -> None:
        super().__init__(spec)
        self.embed = Embedding(spec, backbone)
        features = self.embed.out_features
        self.pairing = pair = pairing(spec.target)
        self.encoder = PairEncoder(features + pair.label_size, width, self_attention, heads)
        self.latent = LatentEncoder(features + pair.label_size, width, latent, self_attention, heads)
        self.decoder = Perceptron(features + pair.codes * width + latent, width, pair.outputs, bias=pair.bias)
        uniform = SobolEngine(latent, scramble=True, seed=0).draw(n_samples).clamp(1e-4, 1 - 1e-4)
        self.register_buffer("draws", torch.special.ndtri(uniform))

    @abstractmethod
    def remember(self, r: Tensor, h: Tensor, groups: Tensor) -> Phi:
        """Codes r_i `[T, N, R]` of inputs `[T, N, D]` in groups `[T, N, G]` to the deterministic part of phi.

        Groups are the classes, then all examples together; without classes only the latter.
        """

    @abstractmethod
    def code(self, phi: Phi, h: Tensor) -> Tensor:
        """The code that a query `[T, M, D]` reads in each group: `[T, 1 or M, G, R]`."""

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `z_mean`, `z_scale [T, Z]` of q(z | s), and what `remember` adds.

        And the task statistics.
        """
        h, phi = self.embed.adapt(support, descriptor)
        pairs, groups = self.pairing.pairs(h, support), self.pairing.groups(support)
        phi["z_mean"], phi["z_scale"] = self.latent(pairs, groups)
        return phi | self.remember(self.encoder(pairs, groups), h, self.pairing.readable(support))

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        return self.spec.target.mixture(self._decode(phi, x, self.samples(phi)))

    def samples(self, phi: Phi) -> Tensor:
        """`n_samples` of z from q(z | s), `[T, S, Z]`: in evaluation always the same quasi-random ones."""
        draws = torch.randn_like(self.draws.expand(len(phi["z_mean"]), -1, -1)) if self.training else self.draws
        return phi["z_mean"][:, None] + phi["z_scale"][:, None] * draws

    def encode(self, examples: Examples, descriptor: Tensor | None, phi: Phi) -> tuple[Tensor, Tensor]:
        """q(z | examples): mean and scale, each `[T, Z]`; for the support, phi has them as `z_mean` and `z_scale`.

        If the spec's `scale` is "support", phi says the task's.
        """
        examples, descriptor, _ = self.check(examples, descriptor)
        examples = self.scaled(examples, phi)
        h, _ = self.embed.adapt(examples, descriptor)
        moments: tuple[Tensor, Tensor] = self.latent(self.pairing.pairs(h, examples), self.pairing.groups(examples))
        return moments

    def decode(self, phi: Phi, x: Tensor, z: Tensor) -> Tensor:
        """Natural parameters of p(y | x, r, z): x `[T, M, *x_shape]`, samples z `[T, S, Z]` -> `[T, S, M, P]`."""
        return self.in_units(self._decode(phi, self.scaled_inputs(x, phi), z), phi)

    def _decode(self, phi: Phi, x: Tensor, z: Tensor) -> Tensor:
        h = self.embed(x, phi)
        code = self.code(phi, h)[:, None].to(h.dtype)
        params = self.pairing.score(self.decoder, h[:, None], code, z.to(h.dtype)[:, :, None])
        return within(params, phi.get("classes"))


class NP(NeuralProcess):
    """Neural process with a deterministic and a latent path (Garnelo et al. 2018b, "Neural Processes").

    r = mean_i h(x_i, y_i); s = mean_i h'(x_i, y_i); q(z | s) = N(mu(s), sigma(s)), sigma = 0.1 + 0.9 sigmoid(.);
    predictions = g(x, r, z). Train it with `LatentLoss`, the bound of equation 9. The deterministic path, the sizes and
    the form of sigma are those of Kim et al. 2019 ("Attentive Neural Processes", section 2) and of its authors'
    published notebook (github.com/google-deepmind/neural-processes); the first paper has only z.

    Deviations: predictions are one distribution, not one for each sample of z. In evaluation z takes `n_samples` fixed
    quasi-random values, so that a prediction is a function of phi; their predictions are mixed, and for real targets
    the mixture is replaced by the normal with its mean and variance; `LatentLoss` can score the mixture itself. In
    training `predict` draws new z. For classes, which neither paper has, r is pooled within each class and over all,
    and one decoder scores each class as in `CNP`; for z, s is pooled within each class and then over the classes, so
    renaming them does not change z.

    Args:
        spec: the tasks.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the hidden layers and of the code r.
        latent: size of z.
        n_samples: samples of z in a prediction.
    """

    method = Method(
        adapt=(
            ("encode each pair", r"r_n = \net{MLP}_h(\known_n, y_n), \quad s_n = \net{MLP}_{h'}(\known_n, y_n)"),
            ("mean", r"r = \frac{1}{N} \sum_n r_n, \quad s = \frac{1}{N} \sum_n s_n"),
            ("latent", r"\task = \{r, q\}, \quad q(\ell) = \mathcal{N}\big(\mu(s), \sigma(s)\big)"),
        ),
        predict=(
            ("draw", r"\ell^{(l)} \sim q \in \task"),
            (
                "decode, mix",
                r"p(y \mid x, \task) = \frac{1}{L} \sum_{l=1}^L p\big(y; \net{MLP}_g(\known, r, "
                r"\ell^{(l)})\big)",
            ),
        ),
        cost=("N", "M C"),
        kin={"CNP": "a latent variable beside the mean, so that samples are coherent functions"},
    )

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 128,
        latent: Count = 128,
        n_samples: Count = 16,
    ) -> None:
        super().__init__(spec, backbone=backbone, width=width, latent=latent, n_samples=n_samples)

    def remember(self, r: Tensor, h: Tensor, groups: Tensor) -> Phi:
        """`codes [T, G, R]`."""
        return {"codes": class_mean(r, groups)}

    def code(self, phi: Phi, h: Tensor) -> Tensor:
        return phi["codes"][:, None]
