"""Any known checkpoint into any network of ours, with a report of what was taken.

How layers of different networks are matched, and why:

- By resolution: a network's stage i is another's stage i, because a filter's worth hangs on the size of
  what it sees. A ResNet's stem stands one level below full resolution, and its layer1 two.
- The layer that sees the image is matched only with the one that sees the image; inside a stage the
  n-th convolution with the n-th. Of a bottleneck block a plain network takes the 3x3x3 convolution:
  the 1x1x1 ones around it have no counterpart.
- Layers that only one of the two networks has are left as they are, and reported.
- A matched kernel of another shape is fitted by :mod:`nets.weights.adapt`, which says what each rule keeps.
- A bias before instance norm, or before batch statistics, changes nothing and is dropped where our
  layer has none; before moving statistics it goes into their mean, where it has the same effect. A
  bias that only we have becomes 0.
- The number of classes is the user's: a segmentation or classification output of another width is left.

A ResNet into a ResNet must have the same depth and shortcut: other blocks would be a different function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cases.settings import Settings, setting, within
from nets.weights.adapt import adapt_conv, adapt_up, adapt_vector
from nets.weights.files import WeightsError
from nets.weights.formats import FORMATS
from nets.weights.reading import Weights, WeightsAxes, read_weights, resnet_kind
from nets.weights.report import Action, Entry, Report
from nets.weights.roles import is_bottleneck, layer_roles, layers_of, split_name

Transfer = Literal["encoder", "all"]
MIN_COVERAGE = 50.0  # percent

_NORM = ".norm_act.norm."
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class TransferSettings(Settings):
    """Weights to start from."""

    error = WeightsError

    pretrained: Path | None = setting(None, "any known checkpoint to take weights from", flags=("-w",), kept=False)
    transfer: Transfer = setting("encoder", "what to take of --pretrained", kept=False)
    min_coverage: float = setting(
        MIN_COVERAGE,
        "least percentage of the encoder that --pretrained must fill",
        check=within(0, 100),
        kept=False,
    )
    weights_axes: WeightsAxes = setting(
        "dhw",
        "published Genesis kernels: turned to our (D, H, W) axes, or as their authors stored them",
        kept=False,
    )

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Where no encoder is given, the ResNet that the file holds, with its shortcut; nothing for other networks.

        Raises:
            WeightsError: for a file that cannot be read.
        """
        path = given.get("pretrained")
        if given.get("encoder") is not None or path is None:
            return {}
        if not Path(path).is_file() and not given.get("conv_seg"):  # a network of others too: said once it is read
            return {}
        resnet = read_weights(Path(path)).resnet
        if resnet is None:
            return {}
        depth, shortcut = resnet
        return {"encoder": f"resnet{depth}", "shortcut": given.get("shortcut") or shortcut}


def start_from_weights(net: nn.Module, settings: TransferSettings) -> Report | None:
    """Fill a network as the settings say; None where they name no file. Raises as :func:`load_pretrained`."""
    if settings.pretrained is None:
        return None
    return load_pretrained(
        net,
        settings.pretrained,
        transfer=settings.transfer,
        min_coverage=settings.min_coverage / 100,
        weights_axes=settings.weights_axes,
    )


def load_pretrained(
    net: nn.Module,
    weights: Path | Weights,
    *,
    transfer: Transfer = "encoder",
    min_coverage: float = MIN_COVERAGE / 100,
    weights_axes: WeightsAxes = "dhw",
) -> Report:
    """Fill a network with what a checkpoint offers.

    Args:
        net: any network of ours; changed in place, or not at all where an error is raised.
        weights: the file, or what :func:`nets.weights.reading.read_weights` made of it.
        transfer: "encoder", or "all": the decoder and fitting heads too.
        min_coverage: least share of the encoder's numbers that must come from the file.
        weights_axes: see :func:`nets.weights.reading.read_weights`.

    Raises:
        WeightsError: for a file that cannot be read, a ResNet of another depth or shortcut, or too
            little coverage.
    """
    if not isinstance(weights, Weights):
        weights = read_weights(weights, weights_axes=weights_axes)
    state = net.state_dict()
    keys = {key.removeprefix("net."): key for key in state}  # our name -> key in this network
    target = {name: state[key] for name, key in keys.items()}
    _check_resnets(weights, target)
    transferred = _Transfer(weights.tensors, target, transfer)
    report = Report(
        title=weights.title,
        path=weights.path,
        entries=tuple(replace(entry, name=keys[entry.name]) for entry in transferred.entries),
        dropped=transferred.dropped(),
        unused=(*transferred.unused(), *weights.unknown),
    )
    if report.encoder_coverage < min_coverage:
        raise WeightsError(_too_little(weights, report, target, min_coverage))
    net.load_state_dict({keys[name]: value for name, value in transferred.result.items()})
    return report


def _too_little(weights: Weights, report: Report, target: dict[str, Tensor], min_coverage: float) -> str:
    return (
        f"{weights.path} ({weights.title}) fills {100 * report.encoder_coverage:.0f} % of this encoder, less than the "
        f"{100 * min_coverage:.0f} % of --min_coverage; {_remedy(weights, target)}, or lower --min_coverage"
    )


def _remedy(weights: Weights, target: dict[str, Tensor]) -> str:
    made_for = f"it was made for {_flags(weights)}: give the same"
    ours = resnet_kind(target)
    if ours and not weights.resnet:
        return (
            f"little of another encoder fits a ResNet; {made_for}, or pre-train the ResNet itself "
            f"(--exec_mode pretrain --encoder resnet{ours[0]})"
        )
    return made_for


def _flags(weights: Weights) -> str:
    """The flags that rebuild a file's encoder."""
    if resnet := weights.resnet:
        return f"--encoder resnet{resnet[0]} --shortcut {resnet[1]}"
    if chosen := FORMATS.get(weights.format).encoder or _own_encoder(weights):
        return chosen
    firsts = [re.fullmatch(r"encoder\.stages\.\d+\.0(\.convs\.0)?\.conv\.weight", name) for name in weights.tensors]
    widths = [str(len(weights.tensors[first.string])) for first in firsts if first]
    block = " --res_block" if any(first and first[1] for first in firsts) else ""
    return f"--encoder unet{block} --filters {' '.join(widths)} --depth {len(widths) - 1}"


def _own_encoder(weights: Weights) -> str:
    """The flag that chooses the encoder of one of our checkpoints, unless it is the plain U-Net's."""
    encoder = weights.content.get("network_settings", {}).get("encoder", "unet")
    return "" if encoder == "unet" else f"--encoder {encoder}"


def _check_resnets(weights: Weights, target: dict[str, Tensor]) -> None:
    theirs, ours = resnet_kind(weights.tensors), resnet_kind(target)
    if theirs and ours and theirs != ours:
        raise WeightsError(
            f"{weights.path} holds ResNet-{theirs[0]} with shortcut {theirs[1]}, and the network is ResNet-{ours[0]} "
            f"with shortcut {ours[1]}: give --encoder resnet{theirs[0]} --shortcut {theirs[1]}"
        )


class _Transfer:
    """One matching of a file's tensors to a network's."""

    def __init__(self, source: dict[str, Tensor], target: dict[str, Tensor], transfer: Transfer) -> None:
        self.source, self.target, self.transfer = source, target, transfer
        self.result: dict[str, Tensor] = {}
        self.entries: list[Entry] = []
        self.found: set[str] = set()
        kinds = [is_bottleneck(source), is_bottleneck(target)]
        stems = [resnet_kind(source) is not None, resnet_kind(target) is not None]
        theirs, ours = (
            layer_roles(layers_of(state), stem=stem, bottleneck=kind, plain_other=not all(kinds))
            for state, stem, kind in zip((source, target), stems, kinds, strict=True)
        )
        by_role = {role: layer for layer, role in theirs.items()}
        self.partner = {layer: by_role[role] for layer, role in ours.items() if role in by_role}
        if stems[0] != stems[1]:  # at full resolution a ResNet's skip is the image, others' are features
            self.partner.pop("decoder.0.convs.0", None)
        for name in target:
            self._fill(name)

    def dropped(self) -> tuple[str, ...]:
        """Biases of the file before a normalisation, where our layer needs none."""
        biases = {f"{split_name(name)[0]}.conv.bias" for name in self.found if name.endswith(".conv.weight")}
        return tuple(name for name in self.source if name in biases - self.found)

    def unused(self) -> tuple[str, ...]:
        """Other parameters of the file that found no place."""
        known = {*self.found, *self.dropped()}
        return tuple(n for n in self.source if n not in known and not n.endswith(_BUFFERS))

    def _fill(self, name: str) -> None:
        target = self.target[name]
        value, used, reason = target, 0, self._reason_to_leave(name)
        action: Action = "left"
        if not reason:
            value, used, reason = self._fit(name)
            action = "left" if not reason else "taken" if reason == "the same shape" else "adapted"
            reason = reason or "another number of outputs"
        self.result[name] = value.to(target.dtype)
        if not name.endswith(_BUFFERS):
            self.entries.append(Entry(name=name, action=action, reason=reason, size=target.numel(), used=used))

    def _reason_to_leave(self, name: str) -> str:
        if self.transfer == "encoder" and not name.startswith("encoder."):
            return "not of the encoder (--transfer all takes the decoder too)"
        layer, leaf = split_name(name)
        if layer not in self.partner:
            return "the file's network has no such layer"
        partner = self.partner[layer] + leaf
        if partner not in self.source and not (leaf.endswith(".bias") and _NORM not in leaf):
            return "the file's layer has no such part"
        return ""

    def _fit(self, name: str) -> tuple[Tensor, int, str]:
        """Value, numbers used and what was done, which is empty where the layer has to be left."""
        layer, leaf = split_name(name)
        partner = self.partner[layer] + leaf
        target, source = self.target[name], self.source.get(partner)
        if source is None:
            return torch.zeros_like(target), 0, "no bias there: 0"
        if _decides(layer) and source.shape[:1] != target.shape[:1]:
            return target, 0, ""
        self.found.add(partner)
        if name.endswith("running_mean"):
            source = self._mean_without_bias(self.partner[layer], layer, source)
        if source.shape == target.shape:
            return source, target.numel(), "the same shape"
        image = re.fullmatch(r"encoder\.stages\.0\.0(\.convs\.0|\.skip)?", layer) is not None
        if source.ndim == 1:
            value, used = adapt_vector(source, target)
        elif source.ndim == 2:
            value, used = adapt_conv(source, target)
        elif layer.endswith(".up") or layer == "conv_seg.0":
            value, used = adapt_up(source, target)
        else:
            value, used = adapt_conv(source, target, image=image, parts=self._parts(layer))
        return value, used, _change(source.shape, target.shape, image)

    def _parts(self, layer: str) -> list[tuple[int, int]] | None:
        """(file's, ours) channels of up-sampling and skip before a decoder's first convolution."""
        found = re.fullmatch(r"decoder\.(\d+)\.convs\.0", layer)
        up = f"decoder.{found[1]}.up.weight" if found else ""
        if up not in self.source or up not in self.target:
            return None
        widths = [(s[up].shape[1], s[f"{layer}.conv.weight"].shape[1]) for s in (self.source, self.target)]
        (their_up, theirs), (our_up, ours) = widths
        return [(their_up, our_up), (theirs - their_up, ours - our_up)]

    def _mean_without_bias(self, partner: str, layer: str, mean: Tensor) -> Tensor:
        bias = self.source.get(f"{partner}.conv.bias")
        if bias is None or f"{layer}.conv.bias" in self.target:
            return mean
        return mean - bias


def _decides(layer: str) -> bool:
    """Whether its outputs are the user's classes, or the hidden layer before them."""
    return layer.startswith("head") or layer == "conv_seg.6"


def _change(theirs: torch.Size, ours: torch.Size, image: bool) -> str:
    """What was fitted, in words: ``kernel 3x3x3 to 3x3, fewer channels``."""
    changes = []
    if theirs[2:] != ours[2:]:
        changes.append("kernel {} to {}".format(*("x".join(map(str, sides[2:])) for sides in (theirs, ours))))
    counted = slice(0, 1) if image else slice(0, 2)  # the image's channels are said apart
    if image and theirs[1:2] != ours[1:2]:
        changes.append(f"{theirs[1]} to {ours[1]} channels of the image")
    pairs = list(zip(theirs[counted], ours[counted], strict=True))
    if any(a > b for a, b in pairs):
        changes.append("fewer channels")
    if any(a < b for a, b in pairs):
        changes.append("more channels")
    return ", ".join(changes)
