"""THE reader of our own checkpoints: Lightning's files, holding tensors and JSON-able values only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cases.plan import Plan, PlanError
from nets.blocks import NetworkError
from nets.choice import NetworkChoice, UntrustedError
from nets.weights.files import WeightsError, load_safely

NEEDED = frozenset({"kind", "plan", "network_settings", "n_outputs", "settings", "state_dict"})


class ForeignWeightsError(WeightsError):
    """A checkpoint, but not one that this program's training wrote."""


@dataclass(frozen=True, kw_only=True)
class OwnCheckpoint:
    """What training wrote; ``predict`` needs nothing else.

    Attributes:
        path: the file.
        kind: what the network was made for, such as "segmentation".
        plan: of the cases.
        network: what rebuilds the network, with the plan and ``n_outputs``.
        n_outputs: of the network.
        settings: the run's, by name.
        weights: of the network (the averaged ones, where training averaged), by its own names.
        epoch: how many were done.
        classes: their names, of a classification.
    """

    path: Path
    kind: str
    plan: Plan
    network: NetworkChoice
    n_outputs: int
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    epoch: int
    classes: tuple[str, ...] = ()


def read_own(path: Path, *, trusted: Collection[str] = ()) -> OwnCheckpoint:
    """Read a checkpoint of this program without running any code from it.

    Args:
        path: of the file.
        trusted: names of a user's own encoder or normalisation (``file.py:Object``) that it may name, and that are
            imported then.

    Raises:
        ForeignWeightsError: for a checkpoint of another program.
        WeightsError: for a file that is missing or no checkpoint, and for one of another version of this program.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist: give the path of a .ckpt file that training wrote")
    content = load_safely(path)
    if not content.keys() >= NEEDED:
        raise ForeignWeightsError(
            f"{path} is no checkpoint of this program; other weights start a training with --pretrained, and "
            "MedicalNet's segmentation networks take evaluate --img_list or predict --input"
        )
    plan, network = plan_and_network(path, content, trusted=trusted)
    prefix = "network."
    return OwnCheckpoint(
        path=path,
        kind=content["kind"],
        plan=plan,
        network=network,
        n_outputs=content["n_outputs"],
        settings=content["settings"],
        weights={k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)},
        epoch=content.get("epoch", 0),
        classes=tuple(content.get("classes", ())),
    )


def plan_and_network(
    path: Path, content: Mapping[str, Any], *, trusted: Collection[str] = ()
) -> tuple[Plan, NetworkChoice]:
    """The plan and the choice of a network that lie beside the weights of an own checkpoint.

    Args:
        path: for messages.
        content: of the file, or what :class:`nets.weights.reading.Weights` keeps of it.
        trusted: see :func:`read_own`.

    Raises:
        WeightsError: where they are missing, or of another version of this program.
    """
    values = content.get("network_settings")
    if not isinstance(values, dict):
        raise WeightsError(f"{path} holds no plan: give a .ckpt file that training wrote")
    try:
        return Plan.from_json(content["plan"]), NetworkChoice.from_json(values, trusted=trusted)
    except UntrustedError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (PlanError, NetworkError) as error:
        raise WeightsError(f"{path} is of another version of this program: {error}") from error
