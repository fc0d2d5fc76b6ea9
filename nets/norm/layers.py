"""The normalisations that a network can have, as modules: (N, C, *space) to the same shape."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

INSTANCE_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}  # by spatial axes
BATCH_NORM: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
GROUPS = 16  # of group norm, fewer where the channels do not divide


def instance_norm(channels: int, dim: int, *, eps: float = 1e-5) -> nn.Module:
    """Every channel of every sample apart (arXiv:1607.08022)."""
    return INSTANCE_NORM[dim](channels, eps=eps, affine=True)


def batch_norm(channels: int, dim: int, *, eps: float = 1e-5) -> nn.Module:
    """Every channel over the batch, in evaluation by moving statistics (arXiv:1502.03167)."""
    return BATCH_NORM[dim](channels, eps=eps)


def group_norm(channels: int, dim: int, *, eps: float = 1e-5) -> nn.Module:
    """Groups of channels of every sample (arXiv:1803.08494): as many groups as divide the channels, at most 16."""
    groups = next(g for g in range(min(GROUPS, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=eps)


class BatchStatisticsNorm(nn.BatchNorm3d):
    """Batch norm over the batch at hand, in evaluation too, as the published PyTorch networks have it.

    The moving statistics are kept up in training (2D and 3D alike), but never used.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected a 4D or 5D input, got {input.dim()}D")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        mean, var = (self.running_mean, self.running_var) if self.training else (None, None)
        return F.batch_norm(input, mean, var, self.weight, self.bias, True, self.momentum or 0.0, self.eps)


def with_moving_statistics(module: nn.Module, dim: int) -> nn.Module:
    """The module, changed in place: ordinary batch norm wherever it normalised by the batch in evaluation too.

    Args:
        module: any; a 2D or 3D network.
        dim: its spatial axes.
    """
    for parent in list(module.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, BatchStatisticsNorm):
                moving = BATCH_NORM[dim](norm.num_features, eps=norm.eps, momentum=norm.momentum)
                moving.load_state_dict(norm.state_dict())
                setattr(parent, name, moving)
    return module
