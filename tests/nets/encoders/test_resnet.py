import pytest
import torch

from benchmarks.encoders import parameter_count, statistics_count
from nets.blocks import NetworkError
from nets.build import build_network
from nets.encoders.resnet import BLOCKS, ResNetEncoder, resnet_strides
from nets.medicalnet import MedicalNet
from tests.nets.made_plans import choice, make_plan

# of the encoder with its moving statistics, in millions (arXiv:1904.00625)
MILLIONS = {10: 14.36, 18: 32.99, 34: 63.31, 50: 46.21, 101: 85.31, 152: 117.51, 200: 126.74}


@pytest.mark.parametrize("depth", BLOCKS)
def test_parameter_counts_are_the_published_ones(depth):
    with torch.device("meta"):
        encoder = ResNetEncoder(depth)
    assert (parameter_count(encoder) + statistics_count(encoder)) / 1e6 == pytest.approx(MILLIONS[depth], abs=0.01)


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_both_geometries_of_every_depth(depth, shortcut):
    with torch.device("meta"):
        x = torch.empty(1, 1, 16, 32, 64)
        strided = ResNetEncoder(depth, shortcut=shortcut)
        dilated = ResNetEncoder(depth, shortcut=shortcut, dilated=True)
        for net, last in ((strided, (1, 1, 2)), (dilated, (2, 4, 8))):
            features = net(x)
            assert [f.shape[1] for f in features] == list(net.channels)
            assert tuple(features[0].shape[2:]) == (8, 16, 32)
            assert tuple(features[-1].shape[2:]) == last
    assert {k: v.shape for k, v in strided.state_dict().items()} == {
        k: v.shape for k, v in dilated.state_dict().items()
    }
    assert any(".skip." in key for key in strided.state_dict()) == (shortcut == "B")


def test_published_shortcuts_are_the_default():
    with torch.device("meta"):
        assert {d: ResNetEncoder(d).shortcut for d in (10, 18, 34, 50)} == {10: "B", 18: "A", 34: "A", 50: "B"}


def test_unknown_depth_names_the_known():
    with pytest.raises(NetworkError, match=r"ResNet depth 20, .* 10, 18, 34, 50, 101, 152, 200"):
        ResNetEncoder(20)
    with pytest.raises(NetworkError, match="'resnet20' is not one of unet, genesis, resnet10"):
        choice(encoder="resnet20")


@pytest.mark.parametrize(
    ("patch", "spacing"), [((8, 32, 64), (5.0, 1.0, 1.0)), ((16, 32, 64), (1.0,) * 3), ((32, 64), (1.0,) * 3)]
)
def test_strides_follow_the_plan(patch, spacing):
    settings = choice(encoder="resnet10", filters=(4, 6, 8, 8, 8, 8))
    net = build_network(make_plan(patch, spacing=spacing), settings)
    assert len(net.encoder.strides) == 5
    x = torch.randn(2, 1, *patch)
    (logits,) = net(x)
    assert logits.shape == (2, 3, *patch)
    if spacing[0] == 5:
        assert net.encoder.strides[:2] == ((1, 2, 2), (1, 2, 2))
    logits.square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_shallow_plan_leaves_later_layers_at_full_stride():
    assert resnet_strides([(1, 1), (2, 2), (1, 2)]) == ((2, 2), (1, 2), (1, 1), (1, 1), (1, 1))


def test_checkpointing_gives_the_same_gradients_and_statistics():
    torch.manual_seed(0)
    nets = [ResNetEncoder(10, dim=2), ResNetEncoder(10, dim=2, checkpoint_activations=True)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(3, 1, 64, 96)
    for net in nets:
        net(x)[-1].square().mean().backward()
    for (name, a), b in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(nets[0].named_buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert nets[1].stages[1][0].convs[0].norm_act.norm.num_batches_tracked == 1


def test_deep_supervision_over_a_resnet():
    settings = choice(encoder="resnet18", shortcut="A", deep_supervision=True, filters=(4, 6, 8, 8, 8, 8))
    net = build_network(make_plan((32, 64)), settings)
    assert [tuple(t.shape[2:]) for t in net(torch.randn(2, 1, 32, 64))] == [(32, 64), (16, 32), (8, 16)]


def test_medicalnet_has_any_input_size_and_two_modes():
    net = MedicalNet(ResNetEncoder(10, dim=2, dilated=True), 3)
    x = torch.randn(2, 1, 41, 59)
    assert net(x)[0].shape == (2, 3, 12, 16)  # a quarter, for labels resized to it
    (full,) = net.eval()(x)
    assert full.shape == (2, 3, 41, 59)
    torch.testing.assert_close(full.exp().sum(1), torch.ones(2, 41, 59))
