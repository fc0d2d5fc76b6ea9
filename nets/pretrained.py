"""Any known checkpoint into any network of ours, with a report of what was taken.

How layers of different networks are matched, and why:

- By resolution: a network's stage i is another's stage i, because a filter's worth hangs on the size of
  what it sees. A ResNet's stem stands one level below full resolution, and its layer1 two.
- The layer that sees the image is matched only with the one that sees the image; inside a stage the
  n-th convolution with the n-th. Of a bottleneck block a plain network takes the 3x3x3 convolution:
  the 1x1x1 ones around it have no counterpart.
- Layers that only one of the two networks has are left as they are, and reported.
- A matched kernel of another shape is fitted by :mod:`nets.adapt`, which says what each rule keeps.
- A bias before instance norm, or before batch statistics, changes nothing and is dropped where our
  layer has none; before moving statistics it goes into their mean, where it has the same effect. A
  bias that only we have becomes 0.
- The number of classes is the user's: a segmentation or classification output of another width is left.

A ResNet into a ResNet must have the same depth and shortcut: other blocks would be a different function.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from nets.adapt import adapt_conv, adapt_up, adapt_vector
from nets.formats import Weights, WeightsAxes, WeightsError, read_weights, resnet_kind
from nets.names import rename

Transfer = Literal["encoder", "all"]
Action = Literal["taken", "adapted", "left"]
MIN_COVERAGE = 0.5

_NORM = ".norm_act.norm."
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of one parameter: ``used`` of its ``size`` numbers come from the file."""

    name: str
    action: Action
    reason: str
    size: int
    used: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was transferred; ``str()`` is for people, :meth:`lines` for every parameter."""

    title: str
    path: Path
    entries: tuple[Entry, ...]
    dropped: tuple[str, ...] = ()
    """Biases of the file that a normalisation behind them takes away."""
    unused: tuple[str, ...] = ()
    """Other weights of the file that found no place."""

    @property
    def encoder_coverage(self) -> float:
        """Share of the encoder's numbers that come from the file, 0 to 1."""
        return _coverage([e for e in self.entries if e.name.startswith("encoder.")])

    @property
    def coverage(self) -> float:
        """Share of all the network's numbers that come from the file, 0 to 1."""
        return _coverage(self.entries)

    def lines(self) -> list[str]:
        """One line a parameter."""
        return [f"{e.action:7} {100 * e.used / max(e.size, 1):5.1f} %  {e.name}: {e.reason}" for e in self.entries]

    def __str__(self) -> str:
        groups: Counter[tuple[str, str]] = Counter()
        numbers: Counter[tuple[str, str]] = Counter()
        for entry in self.entries:
            groups[entry.action, entry.reason] += 1
            numbers[entry.action, entry.reason] += entry.size
        text = [
            f"{self.path}: {self.title}; {100 * self.encoder_coverage:.1f} % of the encoder and "
            f"{100 * self.coverage:.1f} % of all parameters come from it"
        ]
        for (action, reason), count in sorted(groups.items(), key=lambda item: "taken adapted left".find(item[0][0])):
            text.append(f"  {action:7} {count:4} tensors, {numbers[action, reason]:>11,} numbers: {reason}")
        if self.dropped:
            text.append(f"  dropped {len(self.dropped):4} biases before a normalisation, where they change nothing")
        if self.unused:
            names = ", ".join(self.unused[:3]) + (", ..." if len(self.unused) > 3 else "")
            text.append(f"  unused  {len(self.unused):4} tensors of the file: {names}")
        return "\n".join(text)


def _coverage(entries: list[Entry] | tuple[Entry, ...]) -> float:
    return sum(e.used for e in entries) / max(sum(e.size for e in entries), 1)


def load_pretrained(
    net: nn.Module,
    weights: Path | Weights,
    *,
    transfer: Transfer = "encoder",
    min_coverage: float = MIN_COVERAGE,
    weights_axes: WeightsAxes = "dhw",
) -> Report:
    """Fill a network with what a checkpoint offers.

    Args:
        net: any network of ours; changed in place, or not at all where an error is raised.
        weights: the file, or what :func:`nets.formats.read_weights` made of it.
        transfer: "encoder", or "all": the decoder and fitting heads too.
        min_coverage: least share of the encoder's numbers that must come from the file.
        weights_axes: see :func:`nets.formats.read_weights`.

    Raises:
        WeightsError: for a file that cannot be read, a ResNet of another depth or shortcut, or too
            little coverage.
    """
    if not isinstance(weights, Weights):
        weights = read_weights(weights, weights_axes=weights_axes)
    state = net.state_dict()
    names = _our_names(state)
    _check_resnets(weights, {ours: state[key] for key, ours in names.items()})
    plan = _Transfer(weights.tensors, {ours: state[key] for key, ours in names.items()}, transfer)
    plan.run()
    report = Report(
        title=weights.title,
        path=weights.path,
        entries=tuple(plan.entries),
        dropped=plan.dropped(),
        unused=(*plan.unused(), *weights.unknown),
    )
    if report.encoder_coverage < min_coverage:
        raise WeightsError(
            f"{weights.path} ({weights.title}) fills {100 * report.encoder_coverage:.0f} % of this encoder, less than "
            f"the {100 * min_coverage:.0f} % of --min_coverage: choose the network that it was made for, "
            "a smaller --depth, or lower --min_coverage"
        )
    net.load_state_dict({key: plan.result[ours] for key, ours in names.items()} | _rest(state, names))
    return report


def _our_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Key -> name without wrappers, for the keys that a transfer can fill."""
    return {key: name for key in state for name in rename({key.removeprefix("net."): state[key]}, "own")[0]}


def _rest(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in names}


def _check_resnets(weights: Weights, target: dict[str, Tensor]) -> None:
    theirs, ours = resnet_kind(weights.tensors), resnet_kind(target)
    if theirs and ours and theirs != ours:
        raise WeightsError(
            f"{weights.path} holds ResNet-{theirs[0]} with shortcut {theirs[1]}, and the network is ResNet-{ours[0]} "
            f"with shortcut {ours[1]}: give --encoder resnet{theirs[0]} --shortcut {theirs[1]}"
        )


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


class _Transfer:
    """One matching of a file's tensors to a network's."""

    def __init__(self, source: dict[str, Tensor], target: dict[str, Tensor], transfer: Transfer) -> None:
        self.source, self.target, self.transfer = source, target, transfer
        self.result: dict[str, Tensor] = {}
        self.entries: list[Entry] = []
        self.found: set[str] = set()
        kinds = [_is_bottleneck(source), _is_bottleneck(target)]
        stems = [resnet_kind(source) is not None, resnet_kind(target) is not None]
        theirs, ours = (
            layer_roles(_layers(state), stem=stem, bottleneck=kind, plain_other=not all(kinds))
            for state, stem, kind in zip((source, target), stems, kinds, strict=True)
        )
        by_role = {role: layer for layer, role in theirs.items()}
        self.partner = {layer: by_role[role] for layer, role in ours.items() if role in by_role}

    def run(self) -> None:
        for name in self.target:
            self._fill(name)

    def dropped(self) -> tuple[str, ...]:
        """Biases of the file before a normalisation, where our layer needs none."""
        used = {self.partner[_split(name)[0]] for name in self.target if _split(name)[0] in self.partner}
        return tuple(n for n in self.source if n.endswith(".conv.bias") and n[:-10] in used and n not in self.found)

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
        layer, leaf = _split(name)
        if layer not in self.partner:
            return "the file's network has no such layer"
        partner = self.partner[layer] + leaf
        if partner not in self.source and not (leaf.endswith(".bias") and _NORM not in leaf):
            return "the file's layer has no such part"
        return ""

    def _fit(self, name: str) -> tuple[Tensor, int, str]:
        """Value, numbers used and what was done, which is empty where the layer has to be left."""
        layer, leaf = _split(name)
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
        if source.ndim == 1:
            value, used = adapt_vector(source, target)
        elif source.ndim == 2:
            value, used = adapt_conv(source, target)
        elif layer.endswith(".up") or layer == "conv_seg.0":
            value, used = adapt_up(source, target)
        else:
            image = re.fullmatch(r"encoder\.stages\.0\.0(\.convs\.0|\.skip)?", layer) is not None
            value, used = adapt_conv(source, target, image=image, parts=self._parts(layer))
        return value, used, f"{_shape(source)} to {_shape(target)}"

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


def _is_bottleneck(state: dict[str, Tensor]) -> bool:
    return "encoder.stages.1.0.convs.2.conv.weight" in state


def _layers(state: dict[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(_split(name)[0] for name in state))


def _split(name: str) -> tuple[str, str]:
    """``a.b.conv.weight`` to ``a.b`` and ``.conv.weight``; ``heads.0.bias`` to ``heads.0`` and ``.bias``."""
    found = re.fullmatch(r"(.+?)((?:\.conv|\.norm_act\.norm)?\.\w+)", name)
    if not found:
        raise WeightsError(f"{name!r} is no parameter of a layer")
    return found[1], found[2]


def _decides(layer: str) -> bool:
    """Whether its outputs are the user's classes, or the hidden layer before them."""
    return layer.startswith("head") or layer == "conv_seg.6"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
