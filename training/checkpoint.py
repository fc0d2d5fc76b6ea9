"""Our checkpoints: Lightning's files, holding tensors and JSON-able values only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from cases.plan import Plan
from nets.build import Chosen, build_network
from nets.choice import as_choice
from nets.network import Network
from nets.weights.files import WeightsError
from nets.weights.own import ForeignWeightsError, OwnCheckpoint, read_own

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

SAME_LAYERS = {"layout", "checkpoint_activations", "negative_slope"}  # settings that change no parameter


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
class Checkpoint(OwnCheckpoint):
    """What ``predict`` needs: nothing else lies beside it."""

    def build(self) -> Network:
        """The network with its weights (the averaged ones, where training averaged)."""
        network = build_network(self.plan, self.network, out_channels=self.n_outputs)
        self.fill(network)
        return network

    def fill(self, network: torch.nn.Module, made_with: Chosen | None = None) -> None:
        """Put the weights into a network of the very same layers.

        Args:
            made_with: the network's settings, for the message.

        Raises:
            CheckpointError: for a network of other layers.
        """
        found = {name: weight.shape for name, weight in self.weights.items()}
        wanted = {name: weight.shape for name, weight in network.state_dict().items()}
        if differ := sorted(name for name in found | wanted if found.get(name) != wanted.get(name)):
            ran, now = self.network.to_json(), as_choice(made_with or self.network).to_json()
            flags = ", ".join(
                f"--{name} {ran[name]}, not {now.get(name)}"
                for name in sorted(ran.keys() - SAME_LAYERS)
                if ran[name] != now.get(name)
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


def describe(kind: Kind, plan: Plan, network: Chosen, n_outputs: int, run_settings: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds beside the weights, so that :func:`read_checkpoint` needs nothing else."""
    return {
        "kind": kind,
        "plan": plan.to_json(),
        "network_settings": as_choice(network).to_json(),
        "n_outputs": n_outputs,
        "settings": run_settings,
    }


def read_checkpoint(path: Path, *, trusted: Collection[str] = ()) -> Checkpoint:
    """Read a checkpoint without running any code from it; ``trusted`` as :func:`nets.weights.own.read_own` takes it.

    Raises:
        CheckpointError: naming the file, for anything that is not a checkpoint of this program.
    """
    try:
        own = read_own(path, trusted=trusted)
    except ForeignWeightsError as error:
        raise ForeignCheckpointError(str(error)) from error
    except WeightsError as error:
        raise CheckpointError(str(error)) from error
    return Checkpoint(**{entry.name: getattr(own, entry.name) for entry in fields(own)})
