"""What an encoder is, and what an entry of ``ENCODERS`` has to bring.

An *encoder* turns an image (N, C, *space) into one feature map a stage, highest resolution first::

    features[i]: (N, channels[i], *space / (strides[0] * ... * strides[i]))

and says ``in_channels``, ``channels`` and ``strides`` (:class:`Encoder`). The decoder asks for nothing else. A first
stage below full resolution, as a ResNet has it, is allowed: the image itself is then the skip at full resolution.
Convolutions are initialised by the network that hosts the encoder.

An *entry* (:class:`EncoderEntry`) builds one. It is mostly the encoder's own class::

    @dataclass(frozen=True, kw_only=True)
    class TinySettings(Settings):
        "My encoder."

        width: int = setting(8, "channels of the first stage", check=at_least(1))


    class TinyEncoder(nn.Module):
        settings = TinySettings  # becomes --width; a tuple, where there are several groups

        @classmethod
        def build(cls, in_channels: int, stages: Topology, network: NetworkSettings, own: TinySettings) -> Self:
            return cls(in_channels, stages.strides, own.width)

Its file and a line in ``ENCODERS`` make it ``--encoder tiny``; without the line, ``--encoder file.py:TinyEncoder``
names it from outside the tree. Weights are matched by the names of parameters, see :mod:`nets.weights.formats.base`:
modules ``stages.<stage>.<unit>`` are found again in other networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from nets.network import Network

DECODER_FIELDS = ("filters", "more_chn", "deep_supervision")  # of the settings, which the dynamic U-Net reads


@runtime_checkable
class Encoder(Protocol):
    """What a decoder needs to know of an encoder.

    Attributes:
        in_channels: of the image.
        channels: of each stage's feature map, highest resolution first.
        strides: of each stage against the one before (the first against the image), along the spatial axes.
    """

    in_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """(N, C, *space) to one (N, channels[i], *space / product of strides[: i + 1]) a stage."""
        ...


class EncoderEntry(Protocol):
    """What ``ENCODERS`` holds.

    ``build(in_channels, stages, network, *own)`` returns an :class:`Encoder`:

    - ``in_channels``: of the image;
    - ``stages``: the plan's :class:`cases.plan.Topology`: strides, kernels and channels of each stage under the
      user's limits, and by the length of a stride the number of spatial axes. An encoder may take of it what it can;
    - ``network``: :class:`nets.dynamic_unet.NetworkSettings`, what all encoders share, such as ``norm``;
    - ``own``: one instance of each group that ``settings`` names.

    Further attributes, all optional:

    - ``settings``: the subclass of :class:`cases.settings.Settings` that it reads, or a tuple of several;
    - ``reads``: fields of ``network`` that are for some encoders only: "res_block", "conv_seg". Given for an encoder
      that does not name them, they are an error;
    - ``whole(network)``: the published network that hosts the encoder in the place of the dynamic U-Net, as a function
      of (encoder, out_channels) that makes a :class:`nets.network.Network`; None where the settings ask for the U-Net.
    """

    @property
    def build(self) -> Callable[..., Encoder]: ...


def whole_network(entry: EncoderEntry, network: Any) -> Callable[[Any, int], Network] | None:
    """The published network that hosts an entry's encoder under these settings; None: the dynamic U-Net."""
    whole: Callable[[Any], Callable[[Any, int], Network] | None] = getattr(entry, "whole", lambda network: None)
    return whole(network)
