"""Layers with fewer heads of keys than of queries, and with attention that stays sharp over many keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metabox.nn.transformer import TransformerLayer


def answered(layer: TransformerLayer, tokens: Tensor, visible: Tensor) -> Tensor:
    return layer(tokens, *layer.keys_values(tokens), visible)


@pytest.mark.parametrize("rows", [1, 6])
@pytest.mark.parametrize("sink", [True, False])
def test_a_key_head_for_two_heads_is_two_equal_key_heads(rows: int, sink: bool) -> None:
    torch.manual_seed(0)
    few, all_ = (TransformerLayer(16, 4, 8, sink=sink, key_heads=heads).double() for heads in (2, 4))
    state = few.state_dict()
    for name in ("key_value.weight", "key_value.bias"):  # [keys and values x heads x 4]
        state[name] = state[name].unflatten(0, (2, 2, 4)).repeat_interleave(2, 1).flatten(0, 2)
    if sink:
        state["sink"] = state["sink"].repeat_interleave(2, 1)
    all_.load_state_dict(state)
    tokens, visible = torch.randn(3, 6, 16).double(), torch.rand(3, rows, 6) < 0.7
    visible[..., 0] = True
    keys, whole = few.keys_values(tokens)[0], all_.keys_values(tokens)[0]
    assert (keys.shape, whole.shape) == ((3, 2, 6, 4), (3, 4, 6, 4))
    torch.testing.assert_close(answered(few, tokens, visible), answered(all_, tokens, visible))
    assert answered(few, tokens[:, :0], visible[:, :1, :0]).shape == (3, 0, 16)


def test_scaled_attention_is_plain_over_150_keys_and_sharper_over_more() -> None:
    torch.manual_seed(0)
    plain, scaled = (TransformerLayer(16, 4, 8, scaled=scaled) for scaled in (False, True))
    scaled.load_state_dict(plain.state_dict(), strict=False)
    tokens = torch.randn(1, 600, 16)
    few = (torch.arange(600) < 150)[None, None]
    torch.testing.assert_close(answered(scaled, tokens, few), answered(plain, tokens, few))
    many = torch.ones_like(few)
    plain.query.weight.data *= torch.tensor(600).log() / torch.tensor(150).log()
    plain.query.bias.data *= torch.tensor(600).log() / torch.tensor(150).log()
    torch.testing.assert_close(answered(scaled, tokens, many), answered(plain, tokens, many))


def test_heads_that_the_key_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="expected key_heads as a divisor of heads, 4, got 3"):
        TransformerLayer(16, 4, 8, key_heads=3)
