"""The autoencoder of whole scans, whose bottleneck tells which scans look alike.

Haghighi et al. 2020, doi:10.1007/978-3-030-59710-8_14. Without skips, so that everything the scan shows
has to pass the bottleneck; with batch norm, for instance norm would take away the very means that are the
features.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor, nn

from cases.plan import Plan
from nets.blocks import CONV, CONV_TRANSPOSED, ConvNormAct, initialise
from nets.build import Chosen, build_encoder, laid_out
from nets.choice import as_choice
from nets.dynamic_unet import check_sides
from nets.encoders.base import Encoder
from nets.norm.layers import with_moving_statistics


class Autoencoder(nn.Module):
    """(N, C, *space) to a tuple of one (N, C, *space): logits, before the sigmoid.

    Args:
        encoder: any; each of its stages is undone by a transposed convolution and a convolution.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_channels = encoder.in_channels
        dim = len(encoder.strides[0])
        self.total_stride = tuple(math.prod(along) for along in zip(*encoder.strides, strict=True))
        widths = (encoder.channels[0], *encoder.channels)
        self.expand = nn.ModuleList()
        for stride, below, above in reversed(list(zip(encoder.strides, widths[1:], widths, strict=False))):
            if max(stride) > 1:
                self.expand.append(CONV_TRANSPOSED[dim](below, above, stride, stride))
                below = above
            self.expand.append(ConvNormAct(below, above, (3,) * dim, norm="batch"))
        self.out = CONV[dim](encoder.channels[0], self.out_channels, 1)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Raises PatchSizeError where a side is no multiple of the total stride."""
        check_sides(x.shape[2:], self.total_stride)
        x = self.encoder(x)[-1]
        for layer in self.expand:
            x = layer(x)
        return (self.out(x),)


def build_autoencoder(plan: Plan, settings: Chosen) -> Autoencoder:
    """With the encoder that the settings name, normalised by moving statistics.

    Raises:
        PlanError, NetworkError: where plan and settings fit no network.
    """
    choice = as_choice(settings)
    choice = replace(choice, network=replace(choice.network, norm="batch"))
    autoencoder = Autoencoder(build_encoder(plan, choice))
    with_moving_statistics(autoencoder, plan.dim)
    return laid_out(autoencoder, choice, plan.dim)
