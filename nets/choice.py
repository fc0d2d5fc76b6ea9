"""The choice of a network: its settings with those of its encoder, as commands have them and checkpoints store them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from cases.registry import is_own
from cases.settings import Given, Settings, as_json
from nets.blocks import NetworkError, name_fault
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.encoders import ENCODERS
from nets.encoders.base import EncoderEntry

G = TypeVar("G", bound=Settings)


class UntrustedError(NetworkError):
    """A stored choice that names code from outside this program."""


@dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """What rebuilds a network, with a plan and its number of outputs.

    Attributes:
        network: what all encoders share.
        own: the groups that the encoder itself reads, in its order; none given: their defaults.
        bias: biases of up-samplings and heads; off in networks rebuilt from nnU-Net v1, no flag.
    """

    network: NetworkSettings
    own: tuple[Settings, ...] = ()
    bias: bool = True

    def __post_init__(self) -> None:
        kinds = ENCODERS.settings_of(self.network.encoder)
        if not self.own:
            object.__setattr__(self, "own", tuple(kind() for kind in kinds))
        if len(self.own) != len(kinds) or not all(map(isinstance, self.own, kinds)):
            names = ", ".join(kind.__name__ for kind in kinds) or "no settings of its own"
            raise NetworkError(f"the encoder {self.network.encoder} reads {names}")

    @classmethod
    def of(cls, given: Given) -> NetworkChoice:
        """What a command was given."""
        network = given[NetworkSettings]
        return cls(network=network, own=tuple(given[kind] for kind in ENCODERS.settings_of(network.encoder)))

    @property
    def encoder(self) -> str:
        """The encoder's name."""
        return self.network.encoder

    @property
    def entry(self) -> EncoderEntry:
        """The encoder's entry in ``ENCODERS``, or the user's own."""
        return ENCODERS.get(self.network.encoder)

    def to_json(self) -> dict[str, Any]:
        """All settings by name, in one dictionary; :meth:`from_json` takes it back."""
        return as_json(self.network, *self.own) | {"bias": self.bias}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, trusted: Collection[str] = ()) -> NetworkChoice:
        """A stored choice, of this version or an earlier one.

        Args:
            values: settings by name; what is missing has its default.
            trusted: names such as ``file.py:Object`` that may be imported, which runs them; all others have to be
                in our tables, so that no checkpoint makes code run.

        Raises:
            UntrustedError: for a name that is neither in a table nor trusted.
            NetworkError: for settings that no version knows, or that do not go together.
        """
        left: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        encoder = str(left.get("encoder", "unet"))
        for name in (encoder, str(left.get("norm", "instance"))):
            if is_own(name) and name not in trusted:
                raise UntrustedError(
                    f"the network is made with {name}, which is no part of this program; it is run only where you name "
                    "it yourself"
                )
        if fault := name_fault(ENCODERS, encoder):
            raise NetworkError(fault)
        if "channels_last" in left:  # as earlier versions stored it
            left["layout"] = "NDHWC" if left.pop("channels_last") else "NCDHW"
        bias = bool(left.pop("bias", True))
        try:
            network = _taken(SegmentationNetworkSettings, left)
            own = tuple(_taken(kind, left) for kind in ENCODERS.settings_of(encoder))
        except TypeError as error:  # a value of another type
            raise NetworkError(f"network: {error}") from error
        _check_left(left, encoder)
        return cls(network=network, own=own, bias=bias)


def as_choice(settings: NetworkChoice | NetworkSettings) -> NetworkChoice:
    """Settings of a network with its encoder's, which are their defaults where only the network's are given."""
    return settings if isinstance(settings, NetworkChoice) else NetworkChoice(network=settings)


def _taken(kind: type[G], left: dict[str, Any]) -> G:
    """A group of the values that are its fields, which are taken away."""
    return kind(**{entry.name: left.pop(entry.name) for entry in fields(kind) if entry.name in left})


def _check_left(left: Mapping[str, Any], encoder: str) -> None:
    """Settings of other encoders, which earlier versions stored for all, may be there where they are off."""
    faults = []
    for name, value in left.items():
        readers = [
            known
            for known in ENCODERS
            if any(name in kind.__dataclass_fields__ for kind in ENCODERS.settings_of(known))
        ]
        if not readers:
            faults.append(f"no version of this program knows a network's {name!r}")
        elif value is not None and value is not False:
            faults.append(f"{name} belongs to {', '.join(readers)}, not to {encoder!r}")
    if faults:
        raise NetworkError("; ".join(faults))
