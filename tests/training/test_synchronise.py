"""Batch norm over several GPUs keeps what each kind of it does in evaluation."""

from __future__ import annotations

import torch
from torch import nn

from nets.encoders.genesis import BatchStatisticsNorm, GenesisEncoder, GenesisUNet
from training.synchronise import SynchronisedBatchStatistics, SynchronisedNorms


def test_every_batch_norm_is_converted_and_evaluates_as_before() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.Conv3d(3, 4, 3), BatchStatisticsNorm(4))
    x = torch.randn(2, 1, 12, 16, 20)
    model(x)  # moving statistics of its own
    model.eval()
    expected, names = model(x), list(model.state_dict())
    converted = SynchronisedNorms().apply(model)
    assert [type(module) for module in converted][1::2] == [nn.SyncBatchNorm, SynchronisedBatchStatistics]
    assert list(converted.state_dict()) == names
    torch.testing.assert_close(converted(x), expected)
    converted.train()(x)
    assert converted[3].num_batches_tracked == 1


def test_the_published_genesis_network_too() -> None:
    torch.manual_seed(0)
    net = GenesisUNet(GenesisEncoder(), 2).eval()
    x = torch.randn(1, 1, 16, 16, 24)
    expected = net(x)[0]
    converted = SynchronisedNorms().apply(net)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in converted.modules())
    torch.testing.assert_close(converted(x)[0], expected)
