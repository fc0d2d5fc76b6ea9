"""Our checkpoints: Lightning's files, holding tensors and JSON-able values only."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from cases.files import whole_file
from cases.plan import Plan
from cases.settings import Kept, Settings, as_json, setting, shown
from nets.build import Chosen, build_network
from nets.choice import as_choice
from nets.network import Network
from nets.weights.files import WeightsError
from nets.weights.own import ForeignWeightsError, OwnCheckpoint, read_own

Kind = Literal["segmentation", "restoration", "classification", "autoencoder", "semantic"]

LAST = "last.ckpt"
SAME_LAYERS = {"layout", "checkpoint_activations", "negative_slope"}  # settings that change no parameter


@dataclass(frozen=True, kw_only=True)
class StartSettings(Settings):
    """The checkpoint to begin with"""

    ckpt_path: Path | None = setting(None, "checkpoint to start from, to evaluate or to predict with", kept=False)


@dataclass(frozen=True, kw_only=True)
class SaveSettings(Settings):
    """Checkpoints of the run"""

    save_ckpt: bool = setting(True, "write checkpoints (last and best)", kept=False)
    ckpt_store_dir: Path | None = setting(None, "folder of checkpoints/; None: --results", kept=False)
    resume_training: bool = setting(
        False, "continue the run whose last.ckpt lies in --ckpt_store_dir (or --ckpt_path)", kept=False
    )

    def folder(self, results: Path) -> Path:
        """Where the checkpoints of a run lie."""
        return (self.ckpt_store_dir or results) / "checkpoints"


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
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)


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
        keys = "dim channels labels label_values spacing_mm patch_size normalization ohe recipe resample crop".split()
        ours, theirs = asdict(self.plan), asdict(other)
        if differ := [f"{k} {ours[k]} against {theirs[k]}" for k in keys if ours[k] != theirs[k]]:
            raise CheckpointError(
                f"{self.path} was trained under another plan than {folder} holds ({'; '.join(differ)}): "
                "give the checkpoint of this dataset, or preprocess as for the checkpoint"
            )

    def check_run(self, groups: Iterable[Settings]) -> None:
        """Raises CheckpointError where a run cannot be continued exactly under the given groups of settings."""
        differ = [
            f"--{entry.name} {shown(was)}, not {shown(now)}"
            for group in groups
            for entry, now in kept_fields(group, self.settings)
            if (was := stored_value(self.settings, entry)) != now
        ]
        if differ:
            raise CheckpointError(
                f"{self.path} cannot be resumed exactly: it ran with {', '.join(differ)}: give the same, or start anew"
            )


def kept_fields(group: Settings, run: Mapping[str, Any]) -> Iterator[tuple[Field[Any], Any]]:
    """Fields that a resumed run must keep, with the group's values.

    Args:
        run: the settings that the run had, by name, on which it may depend whether a field is one of them.
    """
    values = as_json(group)
    for entry in fields(group):
        kept: Kept = entry.metadata.get("kept", True)
        if kept(run) if callable(kept) else kept:
            yield entry, values[entry.name]


def stored_value(run: Mapping[str, Any], entry: Field[Any]) -> Any:
    """What a run had for a field: under its name or a former one, else its default.

    Earlier versions held the fields of GenesisSettings as texts ``name=value`` under "genesis", and None where the
    method's own value was meant.
    """
    texts = dict(text.split("=", 1) for text in run.get("genesis") or ())
    if entry.name in texts:
        value = json.loads(texts[entry.name])
    else:
        former = (flag.lstrip("-") for flag in entry.metadata.get("flags", ()))
        value = next((run[name] for name in (entry.name, *former) if name in run), None)
    if value is None and entry.default is not MISSING:
        value = entry.default
    if isinstance(value, Path):
        return str(value)
    return tuple(value) if isinstance(value, list) else value


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


def find_resumable(
    save: SaveSettings,
    start: StartSettings,
    groups: Iterable[Settings],
    *,
    kind: Kind,
    plan: Plan,
    cases: Path,
    results: Path,
    trusted: Collection[str] = (),
) -> Path | None:
    """The checkpoint that --resume_training continues from; None for a run that begins anew.

    Args:
        groups: all settings of the run at hand.
        kind: what it learns.
        plan: of its cases.
        cases: the folder that holds them, for the message.
        results: the run's folder.
        trusted: see :func:`read_checkpoint`.

    Raises:
        CheckpointError: where there is none, or where its run had other settings or another plan; for a run that
            begins anew and would replace the last checkpoint of another.
    """
    last = save.folder(results) / LAST
    if not save.resume_training:
        if last.is_file() and save.save_ckpt:
            raise CheckpointError(
                f"{last} belongs to an earlier run, which this one would replace: --resume_training goes on with it; "
                "to begin anew, give another --results or remove the file"
            )
        return None
    checkpoint = read_checkpoint(start.ckpt_path or last, trusted=trusted)
    checkpoint.check_run(groups)
    checkpoint.check_kind(kind)
    checkpoint.check_plan(plan, cases)
    return checkpoint.path
