import pytest
import torch
from torch import nn

from nets.blocks import CONV, ConvNormAct, NetworkError, NormAct, ResidualBlock, UpBlock, make_norm


def test_norm_act_equals_its_parts():
    x = torch.randn(2, 4, 6, 8, 10)
    norm = make_norm("instance", 4, 3)
    torch.testing.assert_close(NormAct(norm, 0.2)(x), nn.functional.leaky_relu(norm(x), 0.2))
    torch.testing.assert_close(NormAct(norm, 0.0)(x), nn.functional.relu(norm(x)))
    torch.testing.assert_close(NormAct(norm, None)(x), norm(x))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_a_bias_before_the_norm_would_change_nothing(norm):
    block = ConvNormAct(3, 5, (3, 3), norm=norm, bias=True).train()
    x = torch.randn(2, 3, 8, 10)
    before = block(x)
    with torch.no_grad():
        block.conv.bias += 7.0
    torch.testing.assert_close(block(x), before, atol=1e-4, rtol=1e-4)


def test_group_norm_takes_the_most_groups_that_divide():
    assert make_norm("group", 320, 3).num_groups == 16
    assert make_norm("group", 6, 2).num_groups == 6


def test_unknown_norm_is_named():
    with pytest.raises(NetworkError, match="'layer' is not one of instance, batch, group"):
        make_norm("layer", 4, 3)


def test_residual_block_goes_around():
    block = ResidualBlock(4, 4, (3, 3, 3))
    assert isinstance(block.skip, nn.Identity)
    nn.init.zeros_(block.convs[1].norm_act.norm.weight)
    x = torch.rand(1, 4, 6, 8, 10)
    torch.testing.assert_close(block(x), x)  # nothing but the way around is left
    strided = ResidualBlock(4, 8, (1, 3, 3), stride=(1, 2, 2))
    assert strided(x).shape == (1, 8, 6, 4, 5)


def test_up_block_puts_the_skip_behind():
    block = UpBlock(6, 3, stride=(1, 2), convs=nn.Identity())
    skip = torch.randn(1, 2, 4, 10)
    out = block(torch.randn(1, 6, 4, 5), skip)
    assert out.shape == (1, 5, 4, 10)
    torch.testing.assert_close(out[:, 3:], skip)


@pytest.mark.parametrize("dim", [2, 3])
def test_channels_last_on_a_cpu_normalises_to_the_same_numbers(dim):
    x = torch.randn(3, 4, 6, 8, 10)[:, :, 0] if dim == 2 else torch.randn(3, 4, 6, 8, 10)
    layout = torch.channels_last if dim == 2 else torch.channels_last_3d
    layer = NormAct(make_norm("instance", 4, dim), 0.01)
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    last = x.contiguous(memory_format=layout).requires_grad_()
    plain = x.contiguous().requires_grad_()
    out = layer(last)
    torch.testing.assert_close(out, layer(plain))
    assert out.is_contiguous(memory_format=layout)
    weights = torch.randn_like(x)
    (out * weights).sum().backward()
    (layer(plain) * weights).sum().backward()
    torch.testing.assert_close(last.grad, plain.grad, atol=1e-4, rtol=1e-4)


def test_small_maps_keep_finite_gradients_in_bfloat16():
    torch.manual_seed(0)
    conv = CONV[3](64, 64, 3, padding=1)
    for _ in range(40):  # memory that was freed just before holds NaN: what reads it unwritten shows
        poison = torch.full((32 * 64 * 64,), float("nan"))
        del poison
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            conv(torch.randn(32, 64, 2, 2, 2)).sum().backward()
        assert conv.weight.grad.isfinite().all()
