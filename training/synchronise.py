"""``--sync_batchnorm``: batch norm by the statistics of all GPUs."""

from __future__ import annotations

from pytorch_lightning.plugins import LayerSync
from torch import Tensor, nn
from torch.nn import functional as F

from nets.encoders.genesis import BatchStatisticsNorm


class SynchronisedBatchStatistics(nn.SyncBatchNorm):
    """What :class:`BatchStatisticsNorm` becomes: evaluation goes by the batch at hand, as that one's does."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


class SynchronisedNorms(LayerSync):
    """Converts every batch norm of a model that trains on several GPUs; names of weights stay."""

    def apply(self, model: nn.Module) -> nn.Module:
        published = [name for name, module in model.named_modules() if isinstance(module, BatchStatisticsNorm)]
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        for name in published:
            model.get_submodule(name).__class__ = SynchronisedBatchStatistics
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """A trained model stays as it is: in evaluation it is the plain one's equal."""
        return model
