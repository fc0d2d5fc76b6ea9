"""Our checkpoints: Lightning's files, holding tensors and JSON-able values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from cases.plan import Plan, PlanError
from nets.blocks import NetworkError
from nets.build import Network, build_network
from nets.dynamic_unet import NetworkSettings
from nets.weights.formats import WeightsError, load_safely

Kind = Literal["segmentation", "restoration", "classification", "autoencoder", "semantic"]

# A resumed run continues exactly only under the settings that shaped the steps already taken.
SHAPING = (
    "seed nfolds fold dim data2d_dim nvol batch_size oversampling steps_per_epoch augment mirror_axes depth min_fmap "
    "filters norm negative_slope res_block more_chn deep_supervision deep_supr_num optimizer learning_rate momentum "
    "weight_decay gradient_clip_val scheduler epochs ema focal brats amp train_batches exec_mode kind train_cases "
    "encoder shortcut dilated conv_seg new_layer_lr_mult lr_decay nesterov step_epochs loss method methods genesis "
    "patch_size outputs z_score cube_folds cube_val_folds hidden exp lambda_rec lambda_cls patterns classes "
    "plateau_epochs"
).split()
BY_THE_RUN = ("cosine", "one_cycle", "polynomial")  # schedules that the number of epochs stretches

SAME_LAYERS = {"channels_last", "checkpoint_activations", "negative_slope"}  # settings that change no parameter


class CheckpointError(ValueError):
    """A file that is no checkpoint of ours, or one of another plan or run."""


class ForeignCheckpointError(CheckpointError):
    """A checkpoint, but not one of this program."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning's own way leads through the system's temporary folder. That is another disk in most containers, so
    the file is copied into place, and a run killed meanwhile leaves half a checkpoint and no other to resume from.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.tmp")
        torch.save(checkpoint, temporary)
        temporary.replace(path)


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

    def build(self) -> Network:
        """The network with its weights (the averaged ones, where training averaged)."""
        network = build_network(self.plan, self.network, out_channels=self.n_outputs)
        self.fill(network)
        return network

    def fill(self, network: torch.nn.Module, made_with: NetworkSettings | None = None) -> None:
        """Put the weights into a network of the very same layers.

        Args:
            made_with: the network's settings, for the message.

        Raises:
            CheckpointError: for a network of other layers.
        """
        found = {name: weight.shape for name, weight in self.weights.items()}
        wanted = {name: weight.shape for name, weight in network.state_dict().items()}
        if differ := sorted(name for name in found | wanted if found.get(name) != wanted.get(name)):
            ran, now = asdict(self.network), asdict(made_with or self.network)
            flags = ", ".join(
                f"--{name} {ran[name]}, not {now[name]}"
                for name in sorted(ran.keys() - SAME_LAYERS)
                if ran[name] != now[name]
            )
            shown = f" ({flags})" if flags else ""
            raise CheckpointError(
                f"{self.path} holds another network than the one asked for: {len(differ)} parameters differ, the first "
                f"is {differ[0]}; give the settings that it was trained with{shown}, or take what fits "
                "with --pretrained"
            )
        network.load_state_dict(self.weights)

    def check_kind(self, kind: Kind) -> None:
        """Raises CheckpointError where the network was made for something else."""
        if self.kind != kind:
            raise CheckpointError(
                f"{self.path} holds a network for {self.kind}, not {kind}: start a training from it with --pretrained"
            )

    def check_outputs(self, wanted: int, table: Path) -> None:
        """Raises CheckpointError where a table has another number of classes than the network."""
        if wanted != self.n_outputs:
            raise CheckpointError(f"{self.path} tells {self.n_outputs} classes apart, {table} names {wanted}")

    def check_plan(self, other: Plan, folder: Path) -> None:
        """Raises CheckpointError where cases of a folder are not what the network was trained on."""
        keys = "dim channels labels spacing_mm patch_size normalization ohe recipe".split()
        ours, theirs = asdict(self.plan), asdict(other)
        if differ := [f"{k} {ours[k]} against {theirs[k]}" for k in keys if ours[k] != theirs[k]]:
            raise CheckpointError(
                f"{self.path} was trained under another plan than {folder} holds ({'; '.join(differ)}): "
                "give the checkpoint of this dataset, or preprocess as for the checkpoint"
            )

    def check_run(self, settings: dict[str, Any]) -> None:
        """Raises CheckpointError where a run cannot be continued exactly under the given settings."""
        stretched = self.settings.get("scheduler") in BY_THE_RUN
        shaping = [k for k in SHAPING if k != "epochs" or stretched]
        ran = {"conv_seg": False} | self.settings  # a flag that older checkpoints do not know
        differ = [k for k in shaping if settings.get(k) != ran.get(k)]
        if differ:
            was = ", ".join(f"--{k} {ran.get(k)}, not {settings.get(k)}" for k in differ)
            raise CheckpointError(
                f"{self.path} cannot be resumed exactly: it ran with {was}: give the same, or start anew"
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
        content = load_safely(path)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    wanted = {"kind", "plan", "network_settings", "n_outputs", "settings", "state_dict"}
    if not wanted <= set(content):
        raise ForeignCheckpointError(
            f"{path} is no checkpoint of this program; other weights start a training with --pretrained, and "
            "MedicalNet's segmentation networks take evaluate --img_list or predict --input"
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
