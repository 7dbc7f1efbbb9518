"""Layers: what is quicker gives the same."""

import pytest
import torch
import torch.nn.functional as F

from modules.vits2.layers import Attention, ConvNeXtBlock, Film, Span, TimeConv, WaveNet, length_mask

HIDDEN, HEADS, REACH = 16, 2, 5


def _dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Attention in a band by its definition; [B, T, heads, D], real bool [B, T]."""
    position = torch.arange(query.shape[1])
    distance = (position[:, None] - position).abs()
    allowed = (((distance <= REACH) & real[:, None]) | (distance == 0))[:, None]
    mixed = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)), attn_mask=allowed)
    return mixed.transpose(1, 2)


@pytest.mark.parametrize("frames", [1, 6, 7, 29, 30, 43, 80])
@pytest.mark.parametrize("lengths", [None, (3, 80)])
def test_attention_by_blocks_is_attention_in_a_band(frames: int, lengths: tuple[int, int] | None):
    torch.manual_seed(0)
    counts = None if lengths is None else torch.tensor(lengths).clamp_max(frames)
    real = torch.ones(2, frames, dtype=torch.bool) if counts is None else length_mask(counts, frames)
    query, key, value = (torch.randn(2, frames, HEADS, 8) for _ in range(3))
    span = Span.of(counts, frames, query, 8, reach=REACH)
    assert (span.block > 0) == (frames >= 30)
    mixed = span.attend(query, key, value)
    torch.testing.assert_close(mixed[real], _dense(query, key, value, real)[real], atol=1e-6, rtol=0)
    assert mixed.isfinite().all()


def test_full_rows_need_no_masks():
    torch.manual_seed(0)
    x, attention = torch.randn(2, 40, HIDDEN), Attention(HIDDEN, HEADS)
    free, masked = (Span.of(lengths, 40, x, 8) for lengths in (None, torch.tensor([40, 40])))
    assert free.gate is None and free.bias is None
    torch.testing.assert_close(attention(x, free), attention(x, masked))


def test_attention_knows_distances_and_not_places():
    """Rotary positions: the same frames give the same, wherever a window begins."""
    torch.manual_seed(0)
    x, attention = torch.randn(1, 30, HIDDEN), Attention(HIDDEN, HEADS)
    whole = attention(x, Span.of(None, 30, x, 8, reach=3))
    window = attention(x[:, 10:], Span.of(None, 20, x, 8, reach=3))
    torch.testing.assert_close(window[:, 3:], whole[:, 13:], atol=1e-6, rtol=0)
    assert not torch.allclose(
        attention(x.flip(1), Span.of(None, 30, x, 8)).flip(1), attention(x, Span.of(None, 30, x, 8))
    )


@pytest.mark.parametrize(("kernel", "dilation", "groups"), [(1, 1, 1), (3, 1, 1), (5, 4, 1), (7, 1, HIDDEN)])
def test_convolution_over_time_is_the_usual_one(kernel: int, dilation: int, groups: int):
    torch.manual_seed(0)
    conv, x = TimeConv(HIDDEN, 32, kernel, dilation=dilation, groups=groups), torch.randn(2, 9, HIDDEN)
    wanted = F.conv1d(
        x.transpose(1, 2), conv.weight, conv.bias, padding=conv.padding, dilation=conv.dilation, groups=groups
    ).transpose(1, 2)
    torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=0)
    conv.fold()
    torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=0)


def test_folded_layers_give_the_same():
    torch.manual_seed(0)
    x, style = torch.randn(2, 12, HIDDEN), torch.randn(2, 6)
    span = Span.of(None, 12, x, 8)
    layers = (
        (Attention(HIDDEN, HEADS), (x, span)),
        (ConvNeXtBlock(HIDDEN, 24, 6, 3), (x, None, style)),
        (WaveNet(HIDDEN, 2, 6, kernel=3), (x, None, style)),
    )
    for layer, given in layers:
        before = layer(*given)
        for part in list(layer.modules()):
            if hasattr(part, "fold"):
                part.fold()
        torch.testing.assert_close(layer(*given), before, atol=1e-5, rtol=0)


def test_a_row_alone_is_normed_as_in_a_batch():
    torch.manual_seed(0)
    film, x, style = Film(HIDDEN, 6), torch.randn(2, 5, HIDDEN), torch.randn(2, 6)
    torch.testing.assert_close(torch.cat([film(x[i : i + 1], style[i : i + 1]) for i in range(2)]), film(x, style))
