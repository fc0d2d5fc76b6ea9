"""Our networks in other people's layouts, as files that their programs take.

nnU-Net normalises behind every convolution like us, but gives each a bias, which does nothing there: it
is written as 0. A network without deep supervision has one head; nnU-Net builds one a level, and the
missing ones are written as 0 (its fine-tuning replaces them all).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cases.registry import Registry
from nets.dynamic_unet import DynamicUNet
from nets.encoders.resnet import ResNetEncoder
from nets.encoders.unet import UNetEncoder
from nets.weights.adapt import adapt_conv
from nets.weights.files import WeightsError

Exported = tuple[dict[str, Any], list[str]]
_CONV = r"(encoder\.stages|decoder)\.(\d+)\.(?:convs\.)?(\d+)\.(conv|norm_act\.norm)\.(\w+)"


def to_nnunet_v1(net: nn.Module) -> Exported:
    """A checkpoint for nnU-Net v1's ``-pretrained_weights``, and notes on what it cannot hold.

    Raises:
        WeightsError: for another network than the plain dynamic U-Net with instance norm.
    """
    unet = _plain(net, "nnU-Net v1")
    ours, notes = _completed(unet)
    state = {}
    for name, value in ours.items():
        if re.fullmatch(r"(decoder\.\d+\.up|heads\.\d+)\.bias", name):
            if value.abs().max() > 0:
                notes.append(f"nnU-Net v1 has no {name}: left out, largest value {value.abs().max():.2g}")
            continue
        if found := re.fullmatch(r"decoder\.(\d+)\.convs\.\d+\.conv\.weight", name):
            # v1 gives a decoder level the kernel of the stage below: ours with zeros around it
            kernel = ours[f"encoder.stages.{int(found[1]) + 1}.0.conv.weight"].shape[2:]
            value = adapt_conv(value, value.new_zeros(*value.shape[:2], *kernel))[0]
        state[_nnunet_v1_name(name, len(unet.decoder))] = value
    content = {"epoch": 0, "state_dict": state, "optimizer_state_dict": None}
    return content | {"lr_scheduler_state_dict": None, "plot_stuff": None}, notes


def to_nnunet_v2(net: nn.Module) -> Exported:
    """A checkpoint for nnU-Net v2's ``-pretrained_weights``, and notes on what it cannot hold.

    The names that PlainConvUNet keeps twice are written twice, so that a strict load passes.

    Raises:
        WeightsError: for another network than the plain dynamic U-Net with instance norm.
    """
    unet = _plain(net, "nnU-Net v2")
    ours, notes = _completed(unet)
    state = {theirs: value for name, value in ours.items() for theirs in _nnunet_v2_names(name, len(unet.decoder))}
    content = {"network_weights": state, "optimizer_state": None, "grad_scaler_state": None}
    return content | {"current_epoch": 0, "logging": {}, "trainer_name": "nnUNetTrainer"}, notes


def to_medicalnet(net: nn.Module) -> Exported:
    """A checkpoint in MedicalNet's layout: the ResNet encoder, and ``conv_seg`` where there is one.

    Raises:
        WeightsError: for an encoder that is no ResNet.
    """
    if not isinstance(getattr(net, "encoder", None), ResNetEncoder):
        raise WeightsError("MedicalNet's layout holds ResNets: this network has another encoder")
    ours = _tensors(net)
    kept = {name: value for name, value in ours.items() if name.startswith(("encoder.", "conv_seg."))}
    notes = (
        [f"{len(ours) - len(kept)} tensors of decoder and heads have no place there"] if len(kept) < len(ours) else []
    )
    return {"state_dict": {"module." + _medicalnet_name(name): value for name, value in kept.items()}}, notes


EXPORTS: Registry[Callable[[nn.Module], Exported]] = Registry(
    "layout of weights",
    {"nnunet_v1": to_nnunet_v1, "nnunet_v2": to_nnunet_v2, "medicalnet": to_medicalnet},
    needs=("__call__",),
)


def _plain(net: nn.Module, program: str) -> DynamicUNet:
    if not isinstance(net, DynamicUNet) or not isinstance(net.encoder, UNetEncoder) or net.encoder.residual:
        raise WeightsError(f"{program} cannot hold this network: only the plain U-Net (--encoder unet, no --res_block)")
    if not any(isinstance(m, (nn.InstanceNorm2d, nn.InstanceNorm3d)) for m in net.modules()):
        raise WeightsError(f"{program} cannot hold this network: it normalises by instance (--norm instance)")
    return net


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous().cpu() for name, value in net.state_dict().items()}


def _completed(unet: DynamicUNet) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors with every bias and every head that nnU-Net has, and a note on the heads."""
    state, levels = _tensors(unet), len(unet.decoder)
    missing = range(len(unet.heads), levels)
    for level in missing:
        width = state[f"decoder.{level}.up.weight"].shape[1]
        state[f"heads.{level}.weight"] = torch.zeros(unet.out_channels, width, *(1,) * unet.dim)
    for name, weight in list(state.items()):
        bias = name.removesuffix("weight") + "bias"
        if weight.ndim > 1 and bias not in state:
            state[bias] = torch.zeros(weight.shape[1 if ".up." in name else 0])
    note = f"{len(missing)} heads below full resolution, which this network has not, are written as 0"
    return state, [note] if missing else []


def _nnunet_v1_name(name: str, levels: int) -> str:
    if found := re.fullmatch(_CONV, name):
        part, index, unit = found[1], int(found[2]), int(found[3])
        rest = ("conv" if found[4] == "conv" else "instnorm") + f".{found[5]}"
        if part == "decoder":
            return f"conv_blocks_localization.{levels - 1 - index}.{unit}.blocks.0.{rest}"
        bottleneck = index == levels  # there, two stacks of one block each
        return f"conv_blocks_context.{index}." + (f"{unit}.blocks.0." if bottleneck else f"blocks.{unit}.") + rest
    top, level, *last = name.split(".")
    return f"{'tu' if top == 'decoder' else 'seg_outputs'}.{levels - 1 - int(level)}.{last[-1]}"


def _nnunet_v2_names(name: str, levels: int) -> list[str]:
    if not (found := re.fullmatch(_CONV, name)):
        top, level, *last = name.split(".")
        return [f"decoder.{'transpconvs' if top == 'decoder' else 'seg_layers'}.{levels - 1 - int(level)}.{last[-1]}"]
    part, index, unit, norm, leaf = found[1], int(found[2]), found[3], found[4] != "conv", found[5]
    ways = [f"{'norm' if norm else 'conv'}.{leaf}", f"all_modules.{int(norm)}.{leaf}"]
    if part == "decoder":
        return [f"decoder.stages.{levels - 1 - index}.convs.{unit}.{way}" for way in ways]
    return [f"{prefix}encoder.stages.{index}.0.convs.{unit}.{way}" for way in ways for prefix in ("", "decoder.")]


def _medicalnet_name(name: str) -> str:
    if name.startswith("conv_seg."):
        return name
    stage, block, *rest = name.removeprefix("encoder.stages.").replace("norm_act.norm", "bn").split(".")
    if stage == "0":
        return f"{rest[0]}1.{rest[1]}"
    if rest[0] == "skip":
        return f"layer{stage}.{block}.downsample.{0 if rest[1] == 'conv' else 1}.{rest[2]}"
    return f"layer{stage}.{block}.{rest[2]}{int(rest[1]) + 1}.{rest[3]}"
