"""Any known checkpoint as tensors under our names; see :mod:`nets.weights.formats`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from nets.encoders.resnet import BLOCKS, BOTTLENECK_FROM, Shortcut
from nets.weights.files import WeightsError, load_safely
from nets.weights.formats import FORMATS

WeightsAxes = Literal["dhw", "as_stored"]

# what wrappers put before a key: DataParallel, torch.compile, Lightning modules, fine-tuning classes
WRAPPERS = ("module.", "_orig_mod.", "network.", "net.", "model.", "classficationNet.", "base_model.", "backbone.")
INSIDE = ("state_dict", "network_weights", "model_state_dict")  # where a checkpoint keeps its weights


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a checkpoint holds, under our names.

    Attributes:
        path: the file.
        format: whose it is, a name of ``FORMATS``.
        tensors: by our name.
        unknown: keys of the file that have no place in any network of ours.
        content: the rest of an own checkpoint, such as ``plan`` and ``network_settings``.
    """

    path: Path
    format: str
    tensors: dict[str, Tensor]
    unknown: tuple[str, ...] = ()
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def resnet(self) -> tuple[int, Shortcut] | None:
        """Depth and shortcut where the encoder is a ResNet. Raises WeightsError for an unknown one."""
        return resnet_kind(self.tensors)

    @property
    def title(self) -> str:
        """For messages: format, and depth and shortcut of a ResNet."""
        resnet = f", ResNet-{self.resnet[0]}, shortcut {self.resnet[1]}" if self.resnet else ""
        return FORMATS.get(self.format).title + resnet

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor that every whole network has. Raises WeightsError where the file lacks it."""
        if name not in self.tensors:
            raise WeightsError(
                f"{self.path} ({self.title}) is no whole network, for {name} is missing: "
                "it can start a training (--pretrained), not predict"
            )
        return tuple(self.tensors[name].shape)


def read_weights(path: Path, *, weights_axes: WeightsAxes = "dhw") -> Weights:
    """Read any known checkpoint.

    Args:
        path: of the file.
        weights_axes: "dhw" reverses the kernels of the published Genesis networks, which were trained
            on (x, y, z) cubes, for our (D, H, W) arrays; "as_stored" leaves them. Other formats store
            (D, H, W) and are never touched.

    Raises:
        WeightsError: for a file that is missing, no checkpoint, one that holds more than weights and
            numbers, or weights of a network that is not known.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: give a file of weights, or fetch one with download.py --weights")
    content = _read(path)
    state = {_unwrap(key): value for key, value in _find_state(content, path).items()}
    name = _detect(state, path)
    tensors, unknown = FORMATS.get(name).rename(state)
    if weights_axes == "dhw" and FORMATS.get(name).xyz:
        tensors = {k: v.permute(0, 1, *range(v.ndim - 1, 1, -1)) if v.ndim > 2 else v for k, v in tensors.items()}
    inside = content if isinstance(content.get("plan"), dict) else {}
    return Weights(
        path=path,
        format=name,
        tensors={k: v.detach().float().contiguous() for k, v in tensors.items()},
        unknown=tuple(unknown),
        content={k: v for k, v in inside.items() if k not in INSIDE},
    )


def _read(path: Path) -> dict[str, Any]:
    """By a format of its own where the first bytes say so, else as PyTorch's."""
    with path.open("rb") as file:
        start = file.read(16)
    for name in FORMATS:
        format_ = FORMATS.get(name)
        if format_.read is not None and start.startswith(format_.magic):
            return {"state_dict": format_.read(path)}
    return load_safely(path)


def _find_state(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    inside = next((content[key] for key in INSIDE if isinstance(content.get(key), dict)), content)
    state = {str(key): value for key, value in inside.items() if isinstance(value, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(content)[:5]))
        raise WeightsError(f"{path} holds no weights: its entries are {keys or 'none'}")
    return state


def _unwrap(key: str) -> str:
    while wrapper := next((w for w in WRAPPERS if key.startswith(w)), None):
        key = key.removeprefix(wrapper)
    return key


def _detect(state: dict[str, Tensor], path: Path) -> str:
    for name in FORMATS:
        if FORMATS.get(name).recognises(state.keys()):
            return name
    raise WeightsError(
        f"{path} holds weights of an unknown network (keys such as {', '.join(list(state)[:3])}): known are "
        + ", ".join(FORMATS.get(name).title for name in FORMATS)
    )


def resnet_kind(tensors: dict[str, Tensor]) -> tuple[int, Shortcut] | None:
    """Depth and shortcut of a ResNet under our names; None for another encoder.

    Raises:
        WeightsError: where the number of blocks is that of no known depth.
    """
    stem = tensors.get("encoder.stages.0.0.conv.weight")
    if stem is None or stem.shape[-1] != 7:
        return None
    found = [re.match(r"encoder\.stages\.(\d)\.(\d+)\.", key) for key in tensors]
    blocks = tuple(max(int(m[2]) for m in found if m and int(m[1]) == layer) + 1 for layer in (1, 2, 3, 4))
    bottleneck = "encoder.stages.1.0.convs.2.conv.weight" in tensors
    depths = [d for d, b in BLOCKS.items() if b == blocks and (d >= BOTTLENECK_FROM) == bottleneck]
    if not depths:
        raise WeightsError(f"a ResNet of {blocks} blocks is none of the known depths {', '.join(map(str, BLOCKS))}")
    return depths[0], "B" if "encoder.stages.2.0.skip.conv.weight" in tensors else "A"
