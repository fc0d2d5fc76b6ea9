"""Our checkpoints: Lightning's files, holding tensors and JSON-able values only."""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from data_preprocessing.plan import Plan, PlanError
from nets.blocks import NetworkError
from nets.build import build_network
from nets.dynamic_unet import DynamicUNet, NetworkSettings
from nets.genesis_unet import GenesisUNet

Kind = Literal["segmentation", "restoration", "classification"]

# A resumed run continues exactly only under the settings that shaped the steps already taken.
SHAPING = (
    "seed nfolds fold dim data2d_dim nvol batch_size oversampling steps_per_epoch augment mirror_axes depth min_fmap "
    "filters norm negative_slope res_block more_chn deep_supervision deep_supr_num optimizer learning_rate momentum "
    "weight_decay gradient_clip_val scheduler epochs ema focal brats amp train_batches exec_mode kind train_cases "
    "encoder nesterov step_epochs loss method methods genesis patch_size outputs z_score cube_folds cube_val_folds "
    "hidden"
).split()


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, or one of another plan or run."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What ``predict`` needs: nothing else lies beside it."""

    path: Path
    plan: Plan
    network: NetworkSettings
    settings: dict[str, Any]
    weights: dict[str, torch.Tensor]
    n_outputs: int
    kind: Kind

    def build(self) -> DynamicUNet | GenesisUNet:
        """The U-Net with its weights (the averaged ones, where training averaged)."""
        network = build_network(self.plan, self.network, out_channels=self.n_outputs)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(f"{self.path}: weights do not fit the plan beside them: {error}") from error
        return network

    def check_kind(self, kind: Kind) -> None:
        """Raises CheckpointError where the network was made for something else."""
        if self.kind != kind:
            raise CheckpointError(
                f"{self.path} holds a network for {self.kind}, not {kind}: start a training from it with --pretrained"
            )

    def check_plan(self, other: Plan, folder: Path) -> None:
        """Raises CheckpointError where cases of a folder are not what the network was trained on."""
        keys = "dim channels labels spacing_mm patch_size normalization ohe".split()
        ours, theirs = asdict(self.plan), asdict(other)
        if differ := [f"{k} {ours[k]} against {theirs[k]}" for k in keys if ours[k] != theirs[k]]:
            raise CheckpointError(
                f"{self.path} was trained under another plan than {folder} holds ({'; '.join(differ)}): "
                "give the checkpoint of this dataset, or preprocess as for the checkpoint"
            )

    def check_run(self, settings: dict[str, Any]) -> None:
        """Raises CheckpointError where a run cannot be continued exactly under the given settings."""
        shaping = SHAPING if self.settings.get("scheduler") != "none" else [k for k in SHAPING if k != "epochs"]
        differ = [k for k in shaping if settings.get(k) != self.settings.get(k)]
        if differ:
            was = ", ".join(f"--{k} {self.settings.get(k)}" for k in differ)
            raise CheckpointError(
                f"{self.path} cannot be resumed exactly: it ran with {was}; give the same, or start anew"
            )


def describe(
    kind: Kind, plan: Plan, network: NetworkSettings, n_outputs: int, run_settings: dict[str, Any]
) -> dict[str, Any]:
    """What a checkpoint holds beside the weights, so that :func:`read_checkpoint` needs nothing else."""
    return {
        "kind": kind,
        "plan": plan.to_json(),
        "network_settings": asdict(network),
        "n_outputs": n_outputs,
        "settings": run_settings,
    }


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code from it.

    Raises:
        CheckpointError: naming the file, for anything that is not a checkpoint of this program.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give the path of a .ckpt file that training wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint, or a damaged one ({reason})") from error
    if not isinstance(content, dict) or not {"kind", "plan", "network_settings", "settings", "state_dict"} <= set(content):
        raise CheckpointError(
            f"{path} is no checkpoint of this program; other weights start a training with --pretrained"
        )
    try:
        plan = Plan.from_json(content["plan"])
        network = NetworkSettings(**content["network_settings"])
    except (PlanError, NetworkError, TypeError) as error:
        raise CheckpointError(f"{path} is of another version of this program: {error}") from error
    prefix = "network."
    weights = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return Checkpoint(
        path=path,
        plan=plan,
        network=network,
        settings=content["settings"],
        weights=weights,
        n_outputs=content["n_outputs"],
        kind=content["kind"],
    )
