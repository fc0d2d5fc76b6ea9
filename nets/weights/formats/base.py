"""What a format of checkpoints is: how it is recognised, its names of parameters, and the network it was made for.

Every format is turned into the names of our own networks::

    encoder.stages.<stage>.<unit>.conv.weight                     plain convolutions
    encoder.stages.<stage>.<block>.convs.<unit>.conv.weight       residual blocks and ResNets
    encoder.stages.<stage>.<block>.skip.conv.weight               the shortcut around a block
    ....norm_act.norm.{weight,bias,running_mean,running_var}      the normalisation behind a convolution
    decoder.<level>.up.weight, decoder.<level>.convs.<unit>...    level 0 is full resolution
    heads.<level>.weight, head..., conv_seg...                    logits, classification, MedicalNet's head

so that whatever matches weights to a network (:mod:`nets.weights.matching`) sees one naming only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Tensors = dict[str, Tensor]
Name = str | Callable[[re.Match[str]], str]
Rules = list[tuple[str, Name]]  # the first pattern that matches a whole key gives our name

# parts of a layer: the convolution and the normalisation behind it
PART = {"conv": "conv", "conv1": "conv", "bn1": "norm_act.norm", "instnorm": "norm_act.norm", "norm": "norm_act.norm"}


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """A format.

    Attributes:
        title: for messages.
        recognises: whether keys, without what wrappers put before them, are of this format.
        rules: of its names, given all keys.
        blank: the network of a file (:class:`nets.weights.reading.Weights`), its weights still to be filled in;
            raises WeightsError where the file holds no whole network.
        xyz: its networks were trained on (x, y, z) arrays, ours see (D, H, W).
        encoder: the flags that choose the encoder of its networks; empty: read off the shapes.
        magic: the first bytes of its files, where they are not PyTorch's.
        read: reads such a file; raises WeightsError.
        finish: brings tensors that have our names into our shapes.
        aliases: a pattern of keys that hold tensors a second time, which are passed over.
    """

    title: str
    recognises: Callable[[Collection[str]], bool]
    rules: Callable[[Collection[str]], Rules]
    blank: Callable[[Any], nn.Module]
    xyz: bool = False
    encoder: str = ""
    magic: bytes = b""
    read: Callable[[Path], Tensors] | None = None
    finish: Callable[[Tensors], Tensors] | None = None
    aliases: str = ""

    def rename(self, state: Tensors) -> tuple[Tensors, list[str]]:
        """Tensors under our names, and the keys that have no place in any network of ours."""
        rules = self.rules(state.keys())
        tensors, unknown = {}, []
        for key, value in state.items():
            for pattern, ours in rules:
                if match := re.fullmatch(pattern, key):
                    tensors[ours(match) if callable(ours) else match.expand(ours)] = value
                    break
            else:
                if not re.fullmatch(self.aliases, key):
                    unknown.append(key)
        return (self.finish(tensors) if self.finish else tensors), unknown
