"""The autoencoder: shapes with every encoder, and that all passes the bottleneck."""

import pytest
import torch

from nets.dynamic_unet import NetworkSettings, PatchSizeError
from nets.encoders.genesis import BatchStatisticsNorm
from pretraining.autoencoder.network import Autoencoder, build_autoencoder
from tests.conftest import make_plan


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        (NetworkSettings(filters=(4, 8, 16), depth=2), 16),
        (NetworkSettings(encoder="genesis"), 512),
        (NetworkSettings(encoder="resnet10"), 512),
    ],
)
def test_any_encoder(settings: NetworkSettings, channels: int) -> None:
    plan = make_plan((32, 32, 64), channels=2)
    network = build_autoencoder(plan, settings).train()
    x = torch.rand(2, 2, 32, 32, 64)
    (logits,) = network(x)
    assert logits.shape == x.shape and network.encoder.channels[-1] == channels
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and not any(isinstance(m, BatchStatisticsNorm | torch.nn.InstanceNorm3d) for m in network.modules())


def test_everything_passes_the_bottleneck() -> None:
    network = build_autoencoder(make_plan((8, 8, 8)), NetworkSettings(filters=(4, 8), depth=1)).eval()
    assert isinstance(network, Autoencoder)
    x = torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        for parameter in network.encoder.stages[-1].parameters():
            parameter.zero_()
        first, second = network(x)[0], network(x + 1)[0]
    torch.testing.assert_close(first, second)


def test_sides_must_halve() -> None:
    network = build_autoencoder(make_plan((8, 8, 8)), NetworkSettings(filters=(4, 8), depth=1))
    with pytest.raises(PatchSizeError):
        network(torch.rand(1, 1, 8, 8, 7))
