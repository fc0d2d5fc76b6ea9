import json
import math
from pathlib import Path

import pytest
import torch

from cases.plan import PlanError, topology
from nets.blocks import NetworkError
from nets.build import build_network
from nets.dynamic_unet import DynamicUNet, NetworkSettings, PatchSizeError
from nets.encoders.base import Encoder
from nets.encoders.unet import UNetEncoder
from tests.nets.made_plans import choice, make_plan

TASKS = Path(__file__).parents[3] / "shared" / "facts" / "msd_tasks.json"


SMALL = {"filters": (4, 6, 8, 10, 12, 12)}


@pytest.mark.parametrize("patch", [(16, 24, 32), (24, 32)])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_every_parameter_gets_a_gradient(patch, residual, norm):
    net = build_network(make_plan(patch, channels=2), choice(res_block=residual, norm=norm, **SMALL))
    (logits,) = net(torch.randn(2, 2, *patch))
    assert logits.shape == (2, 3, *patch)
    logits.square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_deep_supervision_adds_coarser_heads_in_training_only():
    net = build_network(make_plan((12, 48, 64)), choice(deep_supervision=True, deep_supr_num=2, **SMALL))
    x = torch.randn(1, 1, 12, 48, 64)
    assert [tuple(t.shape) for t in net(x)] == [(1, 3, 12, 48, 64), (1, 3, 6, 24, 32), (1, 3, 6, 12, 16)]
    trained = net(x)[0]
    net.eval()
    assert len(net(x)) == 1
    torch.testing.assert_close(net(x)[0], trained)  # instance norm knows no modes


def test_heads_never_outnumber_the_levels():
    net = build_network(make_plan((8, 16, 16)), choice(depth=2, deep_supervision=True, deep_supr_num=4))
    assert len(net.heads) == 2


def test_sides_that_do_not_divide_are_named_with_those_that_do():
    net = build_network(make_plan((16, 24, 32)), choice(**SMALL))
    with pytest.raises(PatchSizeError, match=r"\(16, 20, 33\) must be multiples .*\(4, 4, 8\): take \(16, 20, 40\)"):
        net(torch.zeros(1, 1, 16, 20, 33))
    with pytest.raises(PatchSizeError, match="an input of 2 spatial axes for a network of 3"):
        net(torch.zeros(1, 1, 16, 24))


def test_bad_settings_are_reported_together():
    with pytest.raises(NetworkError, match=r"depth 0 is below 1; .*'layer' is not one of"):
        choice(depth=0, norm="layer")
    with pytest.raises(PlanError, match="4 stages need as many filters"):
        build_network(make_plan((40, 56, 40)), choice(filters=(8, 16)))
    with pytest.raises(NetworkError, match=r"res_block belongs to .*'genesis'; filters, more_chn and"):
        choice(encoder="genesis", res_block=True, filters=(8, 8))
    with pytest.raises(NetworkError, match=r"dilated belongs to resnet10, .*, resnet200, not to 'unet'"):
        choice(dilated=True)
    with pytest.raises(NetworkError, match=r"conv_seg belongs to resnet10, .*, resnet200, not to 'unet'"):
        choice(conv_seg=True)
    with pytest.raises(NetworkError, match="shortcut 'C' is neither A nor B"):
        choice(encoder="resnet10", shortcut="C")
    with pytest.raises(NetworkError, match="filters, more_chn and deep_supervision do not change"):
        choice(encoder="resnet10", conv_seg=True, filters=(8, 8))
    with pytest.raises(PatchSizeError, match=r"\(12, 16, 20\) must be multiples .* take \(16, 16, 24\)"):
        build_network(make_plan((12, 16, 20)), choice(encoder="genesis"))
    with pytest.raises(NetworkError, match="cannot be halved"):
        build_network(make_plan((7, 7, 7)), choice())


def test_channels_last_gives_the_same_numbers():
    plan, x = make_plan((16, 24, 32)), torch.randn(1, 1, 16, 24, 32)
    plain = build_network(plan, choice(**SMALL))
    last = build_network(plan, choice(layout="NDHWC", **SMALL))
    last.load_state_dict(plain.state_dict())
    assert last.encoder.stages[1][0].conv.weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(last(x)[0], plain(x)[0], atol=1e-4, rtol=1e-4)


def test_more_channels_and_biases():
    net = build_network(make_plan((16, 24, 32)), choice(more_chn=True, bias=False))
    assert net.encoder.channels == (64, 96, 128, 192)
    assert not [name for name, _ in net.named_parameters() if name.endswith("bias") and ".norm." not in name]


def test_more_channels_reach_as_deep_as_any_patch():
    assert topology((512, 512), (1.0, 1.0), depth=7, more_chn=True).filters == (64, 96, 128, 192, 256, 384, 512, 768)


class HalfResolutionEncoder(torch.nn.Module):
    """As a ResNet begins: the first stage at half resolution."""

    in_channels = 2
    channels = (4, 6)
    strides = ((2, 2, 2), (1, 2, 2))

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv3d(2, 4, 3, 2, 1)
        self.next = torch.nn.Conv3d(4, 6, 3, (1, 2, 2), 1)

    def forward(self, x):
        first = self.stem(x)
        return [first, self.next(first)]


def test_an_encoder_that_starts_at_half_resolution_comes_back_to_full():
    encoder = HalfResolutionEncoder()
    assert isinstance(encoder, Encoder)
    net = DynamicUNet(encoder, 5, decoder_channels=(3, 4), decoder_kernels=((3, 3, 3),) * 2, settings=NetworkSettings())
    assert net.total_stride == (2, 4, 4)
    assert net(torch.randn(1, 2, 12, 16, 20))[0].shape == (1, 5, 12, 16, 20)


@pytest.mark.skipif(not TASKS.exists(), reason=f"{TASKS} is not here")
def test_decathlon_plans_fit_their_networks():
    facts = json.loads(TASKS.read_text())
    assert len(facts["patch_size"]) == 22
    for name, patch in facts["patch_size"].items():
        spacing = facts["spacings"][name]
        stages = topology(patch, spacing)
        with torch.device("meta"):
            encoder = UNetEncoder(1, stages)
            features = encoder(torch.empty(1, 1, *patch))
        cumulative = [1] * len(patch)
        for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
            cumulative = [a * b for a, b in zip(cumulative, stride, strict=True)]
            expected = tuple(side // c for side, c in zip(patch, cumulative, strict=True))
            assert tuple(feature.shape) == (1, channels, *expected), name
            assert min(expected) >= 4, name
        assert math.prod(cumulative) >= 4 ** len(patch), name
        full = spacing if len(patch) == 3 else [1.0, *spacing]
        with torch.device("meta"):
            net = build_network(make_plan(tuple(patch), spacing=tuple(full)), choice())
            (logits,) = net(torch.empty(1, 1, *patch))
        assert tuple(logits.shape) == (1, 3, *patch), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("encoder", ["unet", "genesis", "resnet18"])
@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
def test_a_gpu_gives_the_same_numbers(encoder, layout):
    torch.backends.cudnn.allow_tf32 = False
    net = build_network(make_plan((32, 48, 64)), choice(encoder=encoder, layout=layout)).eval()
    x = torch.randn(2, 1, 32, 48, 64)
    with torch.no_grad():
        expected = net(x)[0]
        on_gpu = net.cuda()(x.cuda())[0].cpu()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            mixed = net(x.cuda())[0].float().cpu()
    torch.testing.assert_close(on_gpu, expected, atol=2e-3, rtol=2e-3)
    assert (mixed - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_compiles_without_a_graph_break():
    net = build_network(make_plan((8, 16, 16)), choice(**SMALL))
    explained = torch._dynamo.explain(net)(torch.randn(1, 1, 8, 16, 16))
    assert explained.graph_break_count == 0
