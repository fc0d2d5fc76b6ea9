import pytest
import torch

from benchmarks.encoders import parameter_count
from nets.build import build_classifier, build_network, build_two_headed
from nets.dynamic_unet import PatchSizeError
from nets.encoders.genesis import GenesisEncoder, GenesisUNet
from tests.nets.made_plans import choice, make_plan


def test_published_size_and_gradients():
    net = GenesisUNet(GenesisEncoder())
    assert parameter_count(net) == 19_073_665
    (logits,) = net(torch.randn(2, 1, 8, 16, 24))
    assert logits.shape == (2, 1, 8, 16, 24)
    logits.square().mean().backward()
    norms = [p for n, p in net.named_parameters() if not n.endswith("conv.bias")]
    assert all(p.grad.abs().sum() > 0 for p in norms)


def test_batch_statistics_in_both_modes():
    net = GenesisUNet(GenesisEncoder(dim=2))
    x = torch.randn(2, 1, 16, 24)
    trained = net(x)[0]
    moved = net.encoder.stages[0][0].norm_act.norm.running_mean.clone()
    assert moved.abs().max() > 0
    torch.testing.assert_close(net.eval()(x)[0], trained)
    assert net.encoder.stages[0][0].norm_act.norm.running_mean.equal(moved)
    keras = GenesisUNet(GenesisEncoder(dim=2, batch_statistics=False, eps=1e-3))
    keras.load_state_dict(net.state_dict())
    assert not torch.allclose(keras.eval()(x)[0], trained)


def test_sides_are_multiples_of_eight():
    with pytest.raises(PatchSizeError, match=r"take \(16, 16, 24\)"):
        GenesisUNet(GenesisEncoder())(torch.zeros(1, 1, 12, 16, 20))


def test_every_encoder_is_built_for_every_purpose():
    plan = make_plan((16, 32), channels=2)
    for encoder in ("unet", "genesis", "resnet10"):
        settings = choice(encoder=encoder)
        x = torch.randn(2, 2, 16, 32)
        assert build_network(plan, settings)(x)[0].shape == (2, 3, 16, 32)
        assert build_classifier(plan, settings, 5)(x).shape == (2, 5)
        restored, scores = build_two_headed(plan, settings, 7, hidden=8)(x)
        assert restored.shape == x.shape
        assert scores.shape == (2, 7)
