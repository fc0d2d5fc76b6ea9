"""Roles of layers: what says that a layer of one network corresponds to a layer of another."""

from __future__ import annotations

import re
from collections.abc import Hashable

from torch import Tensor

from nets.weights.files import WeightsError


def layer_roles(names: list[str], *, stem: bool, bottleneck: bool, plain_other: bool) -> dict[str, Hashable]:
    """Layer name (all before ``.conv.``, ``.norm_act.`` or the leaf) -> its role, equal across networks.

    Args:
        names: of layers, such as ``encoder.stages.1.0.convs.0``.
        stem: the network is a ResNet, whose stages count from half resolution.
        bottleneck: its blocks are bottlenecks.
        plain_other: the other network has no bottlenecks, so only the 3x3x3 convolutions count.
    """
    roles: dict[str, Hashable] = {}
    for name in names:
        found = re.fullmatch(r"encoder\.stages\.(\d+)\.(\d+)(?:\.convs\.(\d+))?(\.skip)?", name)
        if not found:
            roles[name] = name
            continue
        stage, block, unit, skip = int(found[1]), int(found[2]), found[3], found[4]
        level = stage + 1 if stem else stage
        if skip:
            roles[name] = ("skip", level, block)
        elif stage == 0 and block == 0 and unit in (None, "0"):
            roles[name] = "sees the image"
        elif unit is None:
            roles[name] = ("encoder", level, block)
        elif not bottleneck:
            roles[name] = ("encoder", level, 2 * block + int(unit))
        elif not plain_other:
            roles[name] = ("encoder", level, 3 * block + int(unit))
        elif unit == "1":
            roles[name] = ("encoder", level, block)
    return roles


def is_bottleneck(state: dict[str, Tensor]) -> bool:
    """Whether an encoder, under our names, is a ResNet of bottleneck blocks."""
    return "encoder.stages.1.0.convs.2.conv.weight" in state


def layers_of(state: dict[str, Tensor]) -> list[str]:
    """Names of layers, in their order."""
    return list(dict.fromkeys(split_name(name)[0] for name in state))


def split_name(name: str) -> tuple[str, str]:
    """``a.b.conv.weight`` to ``a.b`` and ``.conv.weight``; ``heads.0.bias`` to ``heads.0`` and ``.bias``."""
    found = re.fullmatch(r"(.+?)((?:\.conv|\.norm_act\.norm)?\.\w+)", name)
    if not found:
        raise WeightsError(f"{name!r} is no parameter of a layer")
    return found[1], found[2]
