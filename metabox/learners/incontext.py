"""In-context transformer: the attention learner. phi is the per-layer keys and values of the support."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples, TaskSpec
from metabox.learners.base import Learner, Phi
from metabox.nn.attention import AttentionBlock
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.sets import class_mean, membership


class InContext(Learner):
    """A transformer over (x, y) tokens; support attends to support, queries attend to the support only.

    The shape is that of the in-context learners TNP-D (Nguyen & Grover 2022), GPICL (Kirsch et al. 2022) and
    CAML (Fifty et al. 2024): token_i = x_i + embed(y_i), and a learned null label in place of a query's y.

    Classes have no table of label embeddings, which is what makes such learners wait long at chance and
    ties them to one way. Here the embedding of class c is inferred from the task: a linear map of the mean
    of its support features. Renaming the classes permutes the embeddings with them. A query starts from a
    first guess, attention by cosine over the support as in Matching networks (Vinyals et al. 2016,
    equation 1); its token carries the guessed label's embedding, and the transformer's correction is read out
    against the same class embeddings. Real and binary targets enter by a linear map and leave by one.

    Args:
        spec: the tasks.
        n_params: natural parameters per query point.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: features of a token.
        depth: transformer blocks.
        heads: attention heads of a block.
    """

    label_equivariant = True

    def __init__(
        self,
        spec: TaskSpec,
        n_params: int,
        *,
        backbone: MakeBackbone | None = None,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__(spec, n_params)
        self.embed = Embedding(spec, backbone)
        self.embed_x = nn.Linear(self.embed.out_features, width)
        self.embed_y = nn.Linear(width if spec.target == "class" else spec.target_size, width)
        self.null_label = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(AttentionBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, width if spec.target == "class" else n_params)
        if spec.target == "class":
            self.log_sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys.i`, `values.i [T, heads, N, D/heads]` of block i, `mask [T, N]`.

        For classes also `features [T, N, D]`, `member [T, N, C]`, `codes [T, C, D]`; and what the
        embedding knows of the task.
        """
        features, phi = self.embed.adapt(support, descriptor)
        x = self.embed_x(features)
        phi["mask"] = support.mask
        if self.spec.target == "class":
            member = membership(support.y, support.mask, self.spec.target_size)
            codes = F.layer_norm(self.embed_y(class_mean(x, member)), x.shape[-1:])
            phi |= {"features": F.normalize(x.float(), dim=-1), "member": member, "codes": codes}
            tokens = x + member.to(codes.dtype) @ codes
        else:
            tokens = x + self.embed_y(support.y.to(x.dtype))
        for i, block in enumerate(self.blocks):
            keys, values = block.keys_values(tokens)  # type: ignore[operator]  # a ModuleList forgets what it holds
            phi |= {f"keys.{i}": keys, f"values.{i}": values}
            if i + 1 < len(self.blocks):  # nobody reads the last block's tokens
                tokens = block(tokens, keys, values, support.mask)
        return phi

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        tokens = self.embed_x(self.embed(x, phi))
        if self.spec.target == "class":
            guess, probability = self._first_guess(phi, tokens)
            tokens = tokens + probability.to(tokens.dtype) @ phi["codes"]
        tokens = tokens + self.null_label
        for i, block in enumerate(self.blocks):
            tokens = block(tokens, phi[f"keys.{i}"], phi[f"values.{i}"], phi["mask"])
        read = self.readout(self.norm(tokens))
        if self.spec.target != "class":
            return read
        return guess + read @ phi["codes"].transpose(1, 2) / math.sqrt(read.shape[-1])

    def _first_guess(self, phi: Phi, x: Tensor) -> tuple[Tensor, Tensor]:
        """How like each class's support a query is: x `[T, M, D]` -> logits `[T, M, C]`, probabilities `[T, M, C]`.

        The logit of a class is the log of the mean of exp(sharpness * (cosine - 1)) over its support.
        """
        with torch.autocast(x.device.type, enabled=False):  # bf16 would blur the cosines
            sharpness = self.log_sharpness.exp()
            cosine = F.normalize(x.float(), dim=-1) @ phi["features"].transpose(1, 2)  # [T, M, N]
            size = phi["member"].sum(1)[:, None]  # [T, 1, C]
            likeness = (sharpness * (cosine - 1)).exp() @ phi["member"] / size.clamp(min=1)
            probability = likeness / likeness.sum(-1, keepdim=True).clamp(min=SMALLEST)
            # A class without support is as unlike the query as one can be.
            logits = torch.where(size > 0, likeness, (-2 * sharpness).exp()).clamp(min=SMALLEST).log()
            return logits, probability


SMALLEST = 1e-30
