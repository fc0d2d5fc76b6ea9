"""Reading other people's checkpoints, and our own, without running anything that they hold."""

from __future__ import annotations

import codecs
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from torch import Tensor

from nets.encoders.resnet import BLOCKS, Shortcut
from nets.weights.names import Format, rename

WeightsAxes = Literal["dhw", "as_stored"]

TITLES: dict[Format, str] = {
    "own": "a network of this program",
    "genesis": "Models Genesis (PyTorch)",
    "semantic_genesis": "Semantic Genesis",
    "genesis_keras": "Models Genesis (Keras)",
    "nnunet_v1": "nnU-Net v1",
    "nnunet_v2": "nnU-Net v2",
    "resnet": "a ResNet in MedicalNet's layout",
}
PUBLISHED_AXES: tuple[Format, ...] = ("genesis", "semantic_genesis", "genesis_keras")  # trained on (x, y, z) cubes

# what wrappers put before a key: DataParallel, torch.compile, Lightning modules, fine-tuning classes
WRAPPERS = ("module.", "_orig_mod.", "network.", "net.", "model.", "classficationNet.", "base_model.", "backbone.")
INSIDE = ("state_dict", "network_weights", "model_state_dict")  # where a checkpoint keeps its weights
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class WeightsError(ValueError):
    """A file that holds no weights, or weights that do not suit the network."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a checkpoint holds, under our names.

    Attributes:
        path: the file.
        format: whose layout it has.
        tensors: by our name.
        unknown: keys of the file that have no place in any network of ours.
        content: the rest of an own checkpoint, such as ``plan`` and ``network_settings``.
    """

    path: Path
    format: Format
    tensors: dict[str, Tensor]
    unknown: tuple[str, ...] = ()
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def resnet(self) -> tuple[int, Shortcut] | None:
        """Depth and shortcut where the encoder is a ResNet. Raises WeightsError for an unknown one."""
        return resnet_kind(self.tensors)

    @property
    def stages(self) -> int:
        """Stages of the encoder."""
        return count_stages(self.tensors)

    @property
    def title(self) -> str:
        """For messages: format, and depth and shortcut of a ResNet."""
        return TITLES[self.format] + (f", ResNet-{self.resnet[0]}, shortcut {self.resnet[1]}" if self.resnet else "")


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
    with path.open("rb") as file:
        keras = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    content: dict[str, Any] = {"state_dict": _read_keras(path)} if keras else load_safely(path)
    state = {_unwrap(key): value for key, value in _find_state(content, path).items()}
    name = "genesis_keras" if keras else _detect(state, path)
    tensors, unknown = rename(state, name)
    if weights_axes == "dhw" and name in PUBLISHED_AXES:
        tensors = {k: v.permute(0, 1, *range(v.ndim - 1, 1, -1)) if v.ndim > 2 else v for k, v in tensors.items()}
    inside = content if isinstance(content.get("plan"), dict) else {}
    return Weights(
        path=path,
        format=name,
        tensors={k: v.detach().float().contiguous() for k, v in tensors.items()},
        unknown=tuple(unknown),
        content={k: v for k, v in inside.items() if k not in INSIDE},
    )


def load_safely(path: Path) -> dict[str, Any]:
    """``torch.load`` of tensors and plain values, NumPy scalars among them; nothing else is unpickled.

    Raises:
        WeightsError: naming the file and what it holds instead.
    """
    if not _may_hold_pickles(path):
        raise WeightsError(f"{path} is no checkpoint, or a damaged one: it does not begin as torch.save's files do")
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged or foreign file fails in whatever way its bytes suggest
        text = " ".join(str(error).split())
        found = re.search(r"(?:GLOBAL|Unsupported (?:global|class))[: ]+(?:GLOBAL )?([A-Za-z_][\w.]+)", text)
        if found:
            raise WeightsError(
                f"{path} holds Python objects ({found.group(1)}), not weights alone; nothing of it was run: "
                "save its state_dict() instead"
            ) from error
        raise WeightsError(
            f"{path} is no checkpoint, or a damaged one ({text[:120] or type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _may_hold_pickles(path: Path) -> bool:
    """Whether a file is a zip archive, a binary pickle or a tar archive, the three that PyTorch has ever written."""
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" or start == b"PK\x03\x04" or (bool(start) and tarfile.is_tarfile(path))


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy number needs, under its names in NumPy 1 and 2."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [*((scalar, name) for name in names), np.dtype, *dtypes, (codecs.encode, "_codecs.encode")]


def _read_keras(path: Path) -> dict[str, Tensor]:
    """Datasets ``<layer>/<layer>/<name>:0`` as ``<layer>/<name>``. Raises WeightsError."""
    state: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.endswith(":0"):
            parts = name.removesuffix(":0").split("/")
            state[f"{parts[-2]}/{parts[-1]}"] = torch.from_numpy(np.asarray(item[()], dtype=np.float32))

    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            root.visititems(visit)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is a damaged HDF5 file ({error})") from error
    if "depth_0_conv/kernel" not in state:
        raise WeightsError(f"{path} is an HDF5 file, but not Models Genesis': it has no depth_0_conv/kernel")
    return state


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


def _detect(state: dict[str, Tensor], path: Path) -> Format:
    if any(".norm_act." in key for key in state):
        return "own"
    if "down_tr64.ops.0.conv1.weight" in state:
        return "semantic_genesis" if "clc_out.fc1.weight" in state else "genesis"
    if "conv_blocks_context.0.blocks.0.conv.weight" in state:
        return "nnunet_v1"
    if "encoder.stages.0.0.convs.0.conv.weight" in state or "encoder.stem.convs.0.conv.weight" in state:
        return "nnunet_v2"
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return "resnet"
    raise WeightsError(
        f"{path} holds weights of an unknown network (keys such as {', '.join(list(state)[:3])}): known are "
        + ", ".join(TITLES.values())
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
    depths = [d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck]
    if not depths:
        raise WeightsError(f"a ResNet of {blocks} blocks is none of the known depths {', '.join(map(str, BLOCKS))}")
    return depths[0], "B" if "encoder.stages.2.0.skip.conv.weight" in tensors else "A"


def count_stages(tensors: dict[str, Tensor]) -> int:
    """Stages of an encoder under our names."""
    return len({name.split(".")[2] for name in tensors if name.startswith("encoder.stages.")})
