"""Convolution blocks of all our networks, in 2D and 3D.

Shapes are (N, C, H, W) for ``dim`` 2 and (N, C, D, H, W) for ``dim`` 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cases.registry import Registry, RegistryError, is_own
from nets.conv import own
from nets.norm import NORMS
from nets.norm.fused import Gathered, fits, instance_norm_act

Layers = dict[int, Callable[..., nn.Module]]  # by the number of spatial axes


class Conv3d(nn.Conv3d):
    """``nn.Conv3d``, in float32 where bfloat16 goes wrong.

    On a CPU the bfloat16 weight gradient of a kernel deeper than its input reads memory that nobody wrote
    (oneDNN 3.12: a NaN in up to a third of the steps at depth 2 and kernel 3). Maps so small cost nothing.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] < self.kernel_size[0] and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


CONV: Layers = {2: nn.Conv2d, 3: Conv3d}
CONV_TRANSPOSED: Layers = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL: Layers = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


class NetworkError(ValueError):
    """Settings or an input that fit no network of ours."""


def make_norm(norm: str, channels: int, dim: int, *, eps: float = 1e-5) -> nn.Module:
    """An affine normalisation of ``channels`` by its name in ``NORMS``. Raises NetworkError for an unknown name."""
    if fault := name_fault(NORMS, norm):
        raise NetworkError(fault)
    made: nn.Module = NORMS.get(norm)(channels, dim, eps=eps)
    return made


def name_fault(table: Registry[Any], name: str) -> str:
    """What is wrong with a name that should be of a table, or a user's own; empty where nothing is."""
    if name not in table and not is_own(name):
        return f"{table.kind} {name!r} is not one of {', '.join(table)}"
    try:
        table.get(name)
    except RegistryError as error:
        return str(error)
    return ""


class NormAct(nn.Module):
    """Normalisation, then LeakyReLU (``negative_slope`` 0: ReLU; None: no activation).

    One module, so that one fused kernel can take the place of both (nets/norm/fused.py): apart they are a third of a
    step on a CPU.
    """

    def __init__(self, norm: nn.Module, negative_slope: float | None) -> None:
        super().__init__()
        self.norm = norm
        self.negative_slope = negative_slope

    @property
    def by_instance(self) -> bool:
        """Whether it takes the moments of every channel of every sample."""
        return isinstance(self.norm, (nn.InstanceNorm2d, nn.InstanceNorm3d)) and not self.norm.track_running_stats

    def forward(self, x: Tensor, gathered: Gathered | None = None) -> Tensor:
        norm: Any = self.norm
        if self.by_instance and fits(x):
            slope = self.negative_slope
            return instance_norm_act(x, norm.weight, norm.bias, eps=norm.eps, negative_slope=slope, gathered=gathered)
        x = _instance_norm_by_sample(self.norm, x) if self._is_slow_here(x) else self.norm(x)
        if self.negative_slope is None:
            return x
        return F.leaky_relu(x, self.negative_slope, inplace=True) if self.negative_slope else F.relu(x, inplace=True)

    def _is_slow_here(self, x: Tensor) -> bool:
        """On a CPU, instance norm of a channels-last tensor reorders it twice and returns it reordered."""
        return (
            isinstance(self.norm, (nn.InstanceNorm2d, nn.InstanceNorm3d))
            and x.device.type == "cpu"
            and not x.is_contiguous()
            and x.is_contiguous(memory_format=CHANNELS_LAST[x.ndim - 2])
        )

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


def _instance_norm_by_sample(norm: Any, x: Tensor) -> Tensor:
    """Batch norm over one sample at a time: the same numbers, 4 to 5 times faster for channels-last on a CPU."""
    return torch.cat(
        [F.batch_norm(sample, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for sample in x.split(1)]
    )


class ConvNormAct(nn.Module):
    """Convolution that keeps the size (but for its stride), normalisation, activation.

    Without a bias unless asked: the normalisation behind it takes the mean away, and any bias with it.

    Attributes:
        own_conv: when the convolution of our own takes the place of PyTorch's (nets/conv/own.py).
    """

    own_conv: own.When = "never"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        dilation: int = 1,
        norm: str | nn.Module = "instance",
        negative_slope: float | None = 0.01,
        bias: bool = False,
    ) -> None:
        super().__init__()
        dim = len(kernel)
        self.conv = CONV[dim](
            in_channels,
            out_channels,
            tuple(kernel),
            stride=tuple(stride) if stride is not None else 1,
            padding=tuple(dilation * (k // 2) for k in kernel),
            dilation=dilation,
            bias=bias,
        )
        module = norm if isinstance(norm, nn.Module) else make_norm(norm, out_channels, dim)
        self.norm_act = NormAct(module, negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        if own.takes(self.conv, x, self.own_conv):
            weight: Any = self.conv.weight
            return self.norm_act(*own.convolve(x, weight, statistics=self.norm_act.by_instance))
        return self.norm_act(self.conv(x))


class ResidualBlock(nn.Module):
    """Two convolutions with a way around them (He et al. 2016, doi:10.1109/CVPR.2016.90).

    The way around is the identity, or a strided 1x1x1 convolution where size or channels change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        norm: str = "instance",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        self.convs = nn.Sequential(
            ConvNormAct(in_channels, out_channels, kernel, stride=stride, norm=norm, negative_slope=negative_slope),
            ConvNormAct(out_channels, out_channels, kernel, norm=norm, negative_slope=None),
        )
        same = in_channels == out_channels and (stride is None or max(stride) == 1)
        self.skip: nn.Module = (
            nn.Identity()
            if same
            else ConvNormAct(in_channels, out_channels, one, stride=stride, norm=norm, negative_slope=None)
        )
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.convs(x) + self.skip(x), self.negative_slope, inplace=True)


class UpBlock(nn.Module):
    """Up-sample by a transposed convolution, put the skip behind it, convolve.

    The kernel of the up-sampling is its stride, so that no output voxel is written twice.
    ``convs`` takes the ``out_channels`` of the up-sampling and, behind them, those of the skip.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: Sequence[int],
        convs: nn.Module,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.up = CONV_TRANSPOSED[len(stride)](in_channels, out_channels, tuple(stride), tuple(stride), bias=bias)
        self.convs = convs

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.convs(torch.cat((self.up(x), skip), dim=1))


def use_own_conv(module: nn.Module, when: own.When) -> None:
    """When every ConvNormAct of a network takes the convolution of our own."""
    for block in module.modules():
        if isinstance(block, ConvNormAct):
            block.own_conv = when


def initialise(module: nn.Module, negative_slope: float = 0.01) -> None:
    """He initialisation of every convolution (doi:10.1109/ICCV.2015.123), biases 0; norms start as identity."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(layer.weight, a=negative_slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
