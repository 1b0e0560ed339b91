"""Meta networks: phi is a memory of weights, generated for each support example from its loss gradient."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metabox.episodes import Examples
from metabox.learners.base import Learner, Phi, within
from metabox.learners.method import Method
from metabox.nn.backbones import MakeBackbone
from metabox.nn.embedding import Embedding
from metabox.nn.generated import task_linear
from metabox.nn.mlp import Perceptron
from metabox.nn.sets import membership
from metabox.ranges import Count
from metabox.targets import Classes, TaskSpec


class MetaNet(Learner):
    """Meta networks (Munkhdalai & Yu 2017, "Meta Networks", Algorithm 1).

    With h = features of x, and all weights without biases, the steps of Algorithm 1 are:

    * u, the representation: u(x; Q, Q*) = Q h + Q* h. Without fast weights, a fixed readout V gives the logits
      V relu(Q h) of the embedding loss, which is the cross-entropy (the paper's choice for one-shot tasks).
    * Q* = d(G, {grad_Q loss_emb}): the support is split into `parts` in order; d, an LSTM and a linear layer, reads the
      gradients of the parts in sequence, and its last output is the task's fast weights.
    * b, the base learner: logits W2 relu(W1 h), with the cross-entropy loss_task.
    * W*_i = m(Z, grad_W loss_task of example i), a perceptron; M = {W*_i} is the memory and R = {r_i = u(x_i; Q, Q*)}
      are its keys.
    * A query's r = u(x; Q, Q*) reads W* = softmax(cosine(R, r))^T M, and the answer is b with layer augmentation
      (section 3.3): a = relu(W1 h) + relu(W1* h), logits = W2 a + W2* a.

    d and m treat each coordinate alike. They read a gradient as two numbers, its log and its sign (`preprocess`, after
    Andrychowicz et al. 2016, appendix A). As in the authors' code, no gradient of the outer loop passes through these
    numbers, so that V, used by loss_emb only, is not trained there either.

    An empty support has no fast weights: b predicts with its slow weights only.

    Deviations: the paper generates fast weights for every layer, including convolutions, which are 150,000 numbers per
    support example on Omniglot. Here only the fully connected layers have fast weights, on top of one backbone that u
    and b share (the paper has one for each) and a linear layer, which makes their number independent of the backbone.
    In the paper's text d reads the gradients of T examples drawn at random, and with several examples per class the
    embedding loss is contrastive, on random pairs; here, as in the authors' code for Omniglot, d reads five parts of
    the support in order, each by its mean cross-entropy. The defaults are small: the authors' `width` is 64.

    Args:
        spec: the tasks; classes.
        backbone: maps inputs to features; by default Conv4 for images, an MLP for vectors.
        width: units of the fully connected layers.
        hidden: units of the LSTM in d, and of the two hidden layers of m.
        parts: number of gradients that d reads.
    """

    method = Method(
        adapt=(
            (
                "gradients of parts",
                r"Q^* = \net{LSTM}\big(\nabla_Q \mathcal{L}^{\mathrm{emb}}_1, \ldots, \nabla_Q "
                r"\mathcal{L}^{\mathrm{emb}}_P\big)",
            ),
            ("keys", r"r_n = (Q + Q^*)\, \known_n"),
            ("fast weights", r"W_n^* = \net{MLP}_m\big(\nabla_W \mathcal{L}^{\mathrm{task}}_n\big)"),
            ("keep both", r"\task = \{Q^*\} \cup \{(r_n, W_n^*)\}_{n=1}^N"),
        ),
        predict=(
            (
                "read fast weights",
                r"W^* = \sum_n \softmax_n\big(\cos(r, r_n)\big) W_n^*, \quad r = (Q + Q^*)\, \known, \quad "
                r"Q^*, r_n, W_n^* \in \task",
            ),
            (
                "slow and fast layers",
                r"p(y \mid x, \task) = \softmax\big((W_2 + W_2^*) [\net{relu}(W_1 \known) + \net{relu}(W_1^* "
                r"\known)]\big)",
            ),
        ),
        cost=("N", "M N"),
        kin={
            "MatchingNet": "what a query reads from the support are weights, in place of labels",
            "MAML": "a network reads gradients, in place of a step along them",
        },
    )
    targets = (Classes,)
    ordered = True
    readout: Tensor

    def __init__(
        self,
        spec: TaskSpec,
        *,
        backbone: MakeBackbone | None = None,
        width: Count = 32,
        hidden: Count = 20,
        parts: Count = 5,
    ) -> None:
        super().__init__(spec)
        self.parts = parts
        self.embed = Embedding(spec, backbone)
        self.reduce = nn.Linear(self.embed.out_features, width)
        self.u = nn.Linear(width, width, bias=False)  # Q
        self.b1 = nn.Linear(width, width, bias=False)  # W
        self.b2 = nn.Linear(width, spec.target.size, bias=False)
        self.register_buffer("readout", nn.Linear(width, spec.target.size, bias=False).weight.detach().clone())
        self.m = Perceptron(2, hidden, 1)
        self.d = nn.LSTMCell(2, hidden)
        self.d_out = nn.Linear(hidden, 1)

    def infer(self, support: Examples, descriptor: Tensor | None, classes: Tensor | None) -> Phi:
        """phi: `keys [T, N, K]`, `memory.1 [T, N, K, K]`, `memory.2 [T, N, C, K]`, `task [T, K, K]`, `mask [T, N]`.

        K is `width`. And the task statistics.
        """
        features, phi = self.embed.adapt(support, descriptor)
        h = self.reduce(features)
        labels = membership(support.y, support.mask, self.spec.target.size)
        phi["task"] = self._task_weights(h, labels, support.mask, classes).to(h.dtype)
        phi["keys"] = self._represent(h, phi["task"])
        error1, error2, a = _errors(h, self.b1.weight, self.b2.weight, labels, classes)
        inputs = h.detach().to(a.dtype)
        for i, (error, seen) in enumerate([(error1, inputs), (error2, a)], 1):
            gradient = error[..., None] * seen[..., None, :]  # per example: [T, N, out, in]
            phi[f"memory.{i}"] = self.m(preprocess(gradient)).squeeze(-1).to(h.dtype)
        return phi | {"mask": support.mask}

    def answer(self, phi: Phi, x: Tensor) -> Tensor:
        h = self.reduce(self.embed(x, phi))
        attention = self._attention(phi, self._represent(h, phi["task"]))
        a = torch.relu(self.b1(h)) + torch.relu(_read(attention, phi["memory.1"], h))
        slow: Tensor = self.b2(a)
        return slow + _read(attention, phi["memory.2"], a)

    def _represent(self, h: Tensor, fast: Tensor) -> Tensor:
        slow: Tensor = self.u(h)
        return slow + task_linear(h, fast)

    def _task_weights(self, h: Tensor, labels: Tensor, mask: Tensor, classes: Tensor | None) -> Tensor:
        """Q* `[T, K, K]`."""
        error, _, _ = _errors(h, self.u.weight, self.readout, labels, classes)
        member = _parts(mask, self.parts)
        size = member.sum(1)  # [T, parts]
        with torch.autocast(h.device.type, enabled=False):
            share = member / size.clamp(min=1)[:, None]
            gradients = torch.einsum("tnp,tno,tni->ptoi", share.to(error.dtype), error, h.detach().to(error.dtype))
        rows = preprocess(gradients).flatten(1, -2)  # one row per coordinate: [parts, T * K * K, 2]
        hidden = cell = rows.new_zeros(rows.shape[1], self.d.hidden_size)
        for part, there in zip(rows, (size > 0).T, strict=True):
            # With fewer examples than parts some parts are empty and make no step.
            real = there.repeat_interleave(len(part) // len(there))[:, None]
            taken = self.d(part, (hidden, cell))
            hidden, cell = (torch.where(real, new, old) for new, old in zip(taken, (hidden, cell), strict=True))
        fast: Tensor = self.d_out(hidden)
        return fast.view(gradients.shape[1:])

    def _attention(self, phi: Phi, r: Tensor) -> Tensor:
        """Weights `[T, M, N]` of the memory for queries r `[T, M, K]`, zeros for an empty support."""
        with torch.autocast(r.device.type, enabled=False):  # bf16 would blur the cosines
            precise = torch.promote_types(r.dtype, torch.float32)
            r, keys = (F.normalize(part.to(precise), dim=-1) for part in (r, phi["keys"]))
            cosine = r @ keys.transpose(1, 2)
            visible = phi["mask"][:, None]
            return cosine.masked_fill(~visible, torch.finfo(cosine.dtype).min).softmax(-1) * visible


def preprocess(gradient: Tensor, p: float = 7.0) -> Tensor:
    """Andrychowicz et al. 2016, appendix A: numbers `[...]` -> `[..., 2]`, within -1 ... 1 unless they are large.

    `(log|g| / p, sign(g))` where `|g| >= e^-p`, else `(-1, e^p g)`; p = 7 in the code of Munkhdalai & Yu.
    """
    log = gradient.abs().clamp(min=math.exp(-p)).log() / p
    return torch.stack([log, (gradient * math.exp(p)).clamp(-1, 1)], dim=-1)


def _errors(
    h: Tensor, first: Tensor, second: Tensor, labels: Tensor, classes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Per-example gradients of the cross-entropy of `second relu(first h)`, constants for the outer loop.

    h `[T, N, D]`, first `[K, D]`, second `[C, K]`, labels `[T, N, C]` (zeros for padding), label sets `[T, C]` that the
    cross-entropy covers -> gradients at the two layers' outputs `[T, N, K]` and `[T, N, C]`, and the second layer's
    inputs `[T, N, K]`. The gradient of a layer's weights is the outer product of its output's gradient and its input.
    """
    with torch.no_grad(), torch.autocast(h.device.type, enabled=False):  # bf16 would blur small gradients
        precise = torch.promote_types(h.dtype, torch.float32)
        h, first, second = (part.to(precise) for part in (h, first, second))
        before = F.linear(h, first)
        a = before.relu()
        error2 = within(F.linear(a, second), classes).softmax(-1) - labels
        error1 = (error2 @ second) * (before > 0)
        return error1, error2, a


def _parts(mask: Tensor, parts: int) -> Tensor:
    """Split the valid examples into equal parts in order: mask `[T, N]` -> floats `[T, N, parts]`."""
    rank, count = mask.cumsum(1) - 1, mask.sum(1, keepdim=True).clamp(min=1)
    return membership(rank * parts // count, mask, parts)


def _read(attention: Tensor, memory: Tensor, x: Tensor) -> Tensor:
    """(attention^T memory) x without materialising each query's weights.

    attention `[T, M, N]`, memory `[T, N, out, in]`, x `[T, M, in]` -> `[T, M, out]`.
    """
    # with every example's weights
    answers: Tensor = task_linear(x, memory.flatten(1, 2)).unflatten(-1, memory.shape[1:3])
    return (attention.to(answers.dtype)[..., None] * answers).sum(2)
