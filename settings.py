"""Settings of every command: frozen dataclasses whose fields are the command-line flags.

``parse`` makes the flags from the fields, reads ``--config``, and checks everything together, so that
all faults come in one message. Flags on the command line win over the file, the file over a ``--preset``,
and the preset over the defaults.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

S = TypeVar("S")

ENCODERS = ("unet", "genesis", *(f"resnet{depth}" for depth in (10, 18, 34, 50, 101, 152, 200)))

# Published pre-trainings (arXiv:1908.06912 and its code), one cube of 64x64x32 (W, H, D) a patch.
_PUBLISHED_SGD = {
    "exec_mode": "pretrain",
    "patch_size": (32, 64, 64),
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0,
    "scheduler": "step",
}
# Semantic Genesis (doi:10.1007/978-3-030-59710-8_14): the autoencoder of whole scans, then the pre-training itself.
_SEMANTIC = {
    "exec_mode": "pretrain",
    "encoder": "genesis",
    "optimizer": "adam",
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "patience": 50,
    "epochs": 10000,
}
_MEDICALNET = {  # arXiv:1904.00625: fine-tuning, and no augmentation besides its preprocessing's crops
    "exec_mode": "train",
    "optimizer": "sgd",
    "learning_rate": 0.001,
    "new_layer_lr_mult": 100.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.001,
    "scheduler": "exponential",
    "lr_decay": 0.99,
    "batch_size": 1,
    "epochs": 200,
    "augment": "none",
    "mirror_axes": (),
}
PRESETS: dict[str | None, dict[str, Any]] = {
    "models_genesis": _PUBLISHED_SGD
    | {"encoder": "genesis", "batch_size": 6, "learning_rate": 1.0, "patience": 50, "step_epochs": 40, "epochs": 10000},
    "semantic_autoencoder": _SEMANTIC | {"method": "autoencoder", "scheduler": "plateau", "batch_size": 8},
    "semantic_genesis": _SEMANTIC | {"method": "semantic", "scheduler": "step", "batch_size": 64, "step_epochs": 40},
    "genesis_nnunet": _PUBLISHED_SGD
    | {"batch_size": 64, "learning_rate": 0.1, "patience": 20, "step_epochs": 12, "epochs": 1000}
    | {"z_score": (-775.8457, 251.9326), "outputs": 2},
    "medicalnet": _MEDICALNET,
    "medicalnet_conv_seg": _MEDICALNET | {"conv_seg": True, "loss": "ce"},
}


class SettingsError(ValueError):
    """Settings that cannot be used; the message lists every fault."""


def setting(default: Any = MISSING, help: str = "", *, flags: tuple[str, ...] = (), const: Any = None) -> Any:
    """A dataclass field that is a flag.

    Args:
        default: its value where nobody gives one; without it the flag is required.
        help: shown by ``--help``.
        flags: further names, such as ``-w``.
        const: value of the bare flag, for a flag whose argument may be left out.
    """
    return field(default=default, metadata={"help": help, "flags": flags, "const": const})


def parse(kind: type[S], argv: Sequence[str] | None, description: str) -> S:
    """Settings of the given kind from a command line.

    Exits with status 2 and one message for unknown flags or keys and for values that do not fit.
    """
    parser = argparse.ArgumentParser(
        description=description,
        usage="%(prog)s [flags]; --help lists them",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    types_ = typing.get_type_hints(kind)
    known: dict[str, bool] = {}  # spellings, and whether they take several values
    for entry in fields(kind):  # type: ignore[arg-type]
        action = _add_flag(parser, entry.name, types_[entry.name], entry.default, entry.metadata)
        known |= dict.fromkeys(action.option_strings, action.nargs in ("*", "+"))
    argv = sys.argv[1:] if argv is None else argv
    found, unknown = parser.parse_known_args(argv)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(found).items()}
    try:
        _raise(_unknown_arguments(argv, unknown, known))
        if given.get("config"):
            given = _read_config(kind, types_, Path(given["config"])) | given
        return kind(**PRESETS.get(given.get("preset"), {}) | given)
    except SettingsError as error:
        parser.error(str(error))


def _unknown_arguments(argv: Sequence[str], unknown: Sequence[str], known: dict[str, bool]) -> list[str]:
    """Faults: flags that do not exist, and values beyond the one that a flag takes, as a shell's pattern gives."""
    faults = []
    for flag in (text for text in unknown if text.startswith("-")):
        faults.append(f"unrecognized arguments: {flag}{did_you_mean(flag.partition('=')[0], list(known))}")
    values: dict[str, list[str]] = {}
    flag = ""
    for text in argv:
        if text.startswith("-"):
            flag, _, value = text.partition("=")
            values[flag] = [value] if value else []
        else:
            values.setdefault(flag, []).append(text)
    for flag, given in values.items():
        if not flag:
            faults.append(f"values without a flag: {' '.join(given)}")
        elif not known.get(flag, True) and len(given) > 1 and given[-1] in unknown:
            faults.append(f"{flag} takes one value (one file), not these {len(given)}: {', '.join(given)}")
    return faults or [f"unrecognized arguments: {' '.join(unknown)}"] * bool(unknown)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``: did you mean ...?`` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else ""


def _add_flag(parser: argparse.ArgumentParser, name: str, kind: Any, default: Any, metadata: Any) -> argparse.Action:
    flags = [f"--{name}", *metadata["flags"]]
    kind, optional, many = _unwrap(kind)
    shown = "required" if default is MISSING else f"default: {default}"
    options: dict[str, Any] = {"dest": name, "help": f"{metadata['help']} ({shown})".replace("%", "%%")}
    options["required"] = default is MISSING
    if kind is bool:
        return parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
    if typing.get_origin(kind) is Literal:
        options["choices"] = typing.get_args(kind)
        kind = type(options["choices"][0])
    if many:
        options["nargs"] = "*" if optional else "+"
    if metadata["const"] is not None:
        options |= {"nargs": "?", "const": metadata["const"]}
    return parser.add_argument(*flags, type=kind, **options)


def _unwrap(kind: Any) -> tuple[Any, bool, bool]:
    """(element type, may be None, is a list) of a field's type."""
    optional = False
    if typing.get_origin(kind) in (Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        optional, kind = True, members[0]
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0], optional, True
    return kind, optional, False


def _read_config(kind: Any, types_: dict[str, Any], path: Path) -> dict[str, Any]:
    """Settings of a TOML or JSON file; keys are the flags' names."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # both decoders' errors, and text that is not UTF-8
        raise SettingsError(f"--config {path} is neither TOML (*.toml) nor JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"--config {path} does not hold names and values")
    known = sorted({entry.name for entry in fields(kind)} - {"config"})
    if unknown := sorted(set(values) - set(known)):
        named = ", ".join(name + did_you_mean(name, known) for name in unknown)
        raise SettingsError(f"--config {path}: unknown settings {named}")
    faults = []
    for name, value in values.items():
        try:
            values[name] = _convert(types_[name], value)
        except (TypeError, ValueError):
            faults.append(f"--config {path}: {name} = {value!r} does not fit {types_[name]}")
    if faults:
        raise SettingsError("; ".join(faults))
    return values


def _convert(kind: Any, value: Any) -> Any:
    kind, optional, many = _unwrap(kind)
    if value is None and optional:
        return None
    if many:
        return tuple(_convert(kind, item) for item in value)
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise ValueError(value)
        return value
    if isinstance(value, bool) != (kind is bool):
        raise TypeError(value)
    return kind(value)


def _raise(faults: list[str]) -> None:
    if faults:
        raise SettingsError("; ".join(faults))


def _fold(settings: Any) -> list[str]:
    """Faults of the cross-validation settings."""
    faults = []
    if settings.nfolds < 2:
        faults.append(f"--nfolds {settings.nfolds}: cross-validation needs at least 2")
    elif not 0 <= settings.fold < settings.nfolds:
        faults.append(f"--fold {settings.fold} is not among the {settings.nfolds} folds 0..{settings.nfolds - 1}")
    return faults


def preprocessed_folder(data: Path, task: str | None, dim: int, part: str = "", *, below: bool = False) -> Path:
    """Where the cases lie: ``/data/<task>_<dim>d/<part>`` while --data is left at /data, else --data itself.

    ``below`` finds the task's folder below any --data.
    """
    below = below or data == Path("/data")
    return data / f"{task.zfill(2)}_{dim}d" / part if below and task else data


@dataclass(frozen=True, kw_only=True)
class MainSettings:
    """``main.py``."""

    exec_mode: Literal["pretrain", "train", "evaluate", "predict"] = setting("train", "what to run")
    kind: Literal["segmentation", "classification"] = setting("segmentation", "what to train or evaluate")
    preset: (
        Literal[
            "models_genesis",
            "genesis_nnunet",
            "semantic_autoencoder",
            "semantic_genesis",
            "medicalnet",
            "medicalnet_conv_seg",
        ]
        | None
    ) = setting(
        None, "published settings of a pre-training, or of MedicalNet's fine-tuning; flags and --config win over them"
    )
    data: Path = setting(
        Path("/data"), "preprocessed folder; left at /data it is /data/<task>_<dim>d (predict: its test/)"
    )
    results: Path = setting(Path("/results"), "where results go")
    logname: str | None = setting(None, "name of the DLLogger file in --results; None: logs.json")
    task: str | None = setting(None, "task number; the Decathlon has 01 to 10")
    config: Path | None = setting(None, "TOML or JSON file with settings; flags win over it")
    seed: int = setting(1, "seed of weights, patches and augmentation")

    gpus: int | None = setting(None, "GPUs a node; 0 runs on the CPU; None: 1 where there is one")
    nodes: int = setting(1, "nodes")
    cpu_ranks: int = setting(1, "processes (gloo) where --gpus is 0")
    affinity: Literal[
        "socket",
        "single_single",
        "single_single_unique",
        "socket_unique_interleaved",
        "socket_unique_continuous",
        "disabled",
    ] = setting("socket_unique_continuous", "how CPU cores are bound to the ranks of several GPUs")
    amp: bool = setting(False, "mixed precision: bf16 where the device has it, else fp16 with loss scaling")
    layout: Literal["NCDHW", "NDHWC"] = setting("NCDHW", "memory layout; NDHWC is channels-last")
    compile: bool = setting(
        False, "training steps run the network as torch.compile makes it, which the first step does"
    )

    nfolds: int = setting(5, "folds of the cross-validation")
    fold: int = setting(0, "the fold that validates")
    train_cases: int | None = setting(
        None, "learn from this many cases only, drawn from the fold's by --seed; fewer are a part of more"
    )
    dim: Literal[2, 3] = setting(3, "dimensions of the network")
    data2d_dim: Literal[2, 3] = setting(3, "2D batches: 3 takes neighbouring slices of --nvol volumes, 2 single slices")
    nvol: int = setting(4, "volumes in a 2D batch")
    batch_size: int = setting(2, "training patches a GPU")
    val_batch_size: int = setting(4, "windows predicted at once")
    num_workers: int = setting(8, "reading processes a rank, at most one a core; 0 reads in the main process")
    oversampling: float = setting(0.4, "probability that a patch is centred on foreground")
    steps_per_epoch: int | None = setting(
        None, "steps of an epoch; None: one patch a case, in pre-training 32 a scan or each cube once"
    )
    augment: Literal["nnunet", "none"] = setting("nnunet", "augmentations besides cropping and mirroring")
    mirror_axes: tuple[int, ...] | None = setting(
        None, "spatial axes that training mirrors, 0 the first of the patch; no number: none; None: as the plan says"
    )

    encoder: Literal[ENCODERS] | None = setting(  # type: ignore[valid-type]
        None,
        "unet, the plan's own; genesis, the published network; or a ResNet. None: the ResNet, with its shortcut, "
        "that --pretrained holds, else unet",
        flags=("--network",),
    )
    shortcut: Literal["A", "B"] | None = setting(
        None, "of a ResNet: A, padded; B, convolution; None: A for 18 and 34, B for the others, as published"
    )
    dilated: bool = setting(
        False, "the published ResNet: its last two layers are dilated; off: they halve the resolution, as a U-Net wants"
    )
    checkpoint_activations: bool = setting(
        False, "compute a ResNet's activations twice: a third slower, far less memory; for resnet101 and deeper"
    )
    conv_seg: bool = setting(
        False,
        "MedicalNet's published segmentation network instead of a U-Net: the dilated ResNet and a head at a quarter of "
        "the resolution",
    )
    depth: int = setting(5, "the most down-samplings")
    min_fmap: int = setting(4, "smallest side of a feature map")
    filters: tuple[int, ...] | None = setting(
        None, "channels of each stage; None: 32, 64, 128, ... at most 320 (512 in 2D)"
    )
    norm: Literal["instance", "batch", "group", "instance_nvfuser"] = setting("instance", "normalisation")
    negative_slope: float = setting(0.01, "slope of LeakyReLU below 0")
    res_block: bool = setting(False, "residual blocks")
    more_chn: bool = setting(False, "encoder with more channels")
    deep_supervision: bool = setting(False, "losses at lower resolutions too")
    deep_supr_num: int = setting(2, "how many lower resolutions")

    epochs: int = setting(1000, "the most epochs", flags=("--max_epochs",))
    min_epochs: int = setting(0, "the least epochs, whatever --patience says")
    patience: int = setting(100, "evaluations without a better Dice before training stops")
    skip_first_n_eval: int = setting(0, "epochs at the start without evaluation")
    val_every: int = setting(1, "epochs between evaluations")
    optimizer: Literal["adam", "sgd"] = setting("adam", "AdamW, or SGD with Nesterov momentum")
    learning_rate: float = setting(0.0008, "peak learning rate")
    momentum: float = setting(0.99, "of SGD")
    nesterov: bool = setting(True, "Nesterov's momentum in SGD")
    weight_decay: float = setting(0.0001, "weight decay")
    gradient_clip_val: float = setting(0.0, "largest norm of the gradient; 0: no limit")
    scheduler: Literal["none", "cosine", "one_cycle", "polynomial", "step", "exponential", "plateau"] = setting(
        "none", "learning rate over the run; the bare flag is cosine with warm-up", const="cosine"
    )
    step_epochs: int = setting(40, "epochs after which --scheduler step halves the learning rate")
    lr_decay: float = setting(0.99, "factor on the learning rate, every epoch of --scheduler exponential")
    new_layer_lr_mult: float = setting(
        1.0, "learning rate of layers that took nothing of --pretrained, over the others'"
    )
    plateau_epochs: int = setting(20, "evaluations without a lower loss before --scheduler plateau halves (pretrain)")
    ema: float = setting(0.0, "decay of the averaged weights that evaluate and predict use, such as 0.99; 0: off")
    loss: Literal["default", "dice", "ce", "bce"] = setting(
        "default",
        "segmentation: Dice and cross entropy, or dice (soft, smooth 1) or ce alone; classification: ce (one class a "
        "scan, its default) or bce (several labels a scan)",
    )
    focal: bool = setting(False, "focal loss instead of cross entropy")
    brats: bool = setting(False, "BraTS regions (whole tumour, tumour core, enhancing) in loss, metrics, inference")
    invert_resampled_y: bool = setting(False, "validate on the label before resampling, predictions resized to it")
    sync_batchnorm: bool = setting(False, "batch norm statistics over all GPUs")

    method: Literal["genesis", "autoencoder", "semantic"] = setting(
        "genesis",
        "pretrain: what the network learns from unlabelled scans: to restore patches; to code whole scans, which ends "
        "in their features; or Semantic Genesis, to classify and restore the patterns found with those features",
    )
    methods: tuple[str, ...] | None = setting(
        None, "pretrain: the transformations in use, of flip, elastic, shuffle, nonlinear, inpaint, outpaint"
    )
    exp: Literal["en", "en_de"] = setting("en_de", "semantic: en trains the encoder by classes alone; en_de all")
    lambda_rec: float = setting(1.0, "semantic: weight of the restoration's squared error under --exp en_de")
    lambda_cls: float = setting(0.01, "semantic: weight of the classes' cross entropy under --exp en_de")
    patterns: Path | None = setting(
        None,
        "semantic: index (.npy) that preprocess.py --exec_mode patterns made, or a folder of published cubes "
        "(train_data1_vwGen_ex_ref_fold<fold>.npy, ...); None: patterns/patterns_fold<fold>.npy of --data",
    )
    classes: int | None = setting(None, "semantic: the first classes only, such as 44 of the published 50; None: all")
    genesis: tuple[str, ...] | None = setting(
        None, "pretrain: name=value of any field of GenesisSettings, such as shuffle_probability=0.3"
    )
    patch_size: tuple[int, ...] | None = setting(
        None,
        "pretrain: (D, H, W) or (H, W) instead of the plan's; a published MedicalNet checkpoint: the size that it "
        "sees scans in (56 448 448)",
    )
    outputs: int = setting(1, "pretrain: outputs a channel, each of which restores it")
    z_score: tuple[float, ...] | None = setting(
        None, "pretrain: mean and std in HU; the corrupted [0,1] becomes -1000..1000 and is z-scored"
    )
    picture_every: int = setting(5, "pretrain: epochs between pictures of original, corrupted and restored slices")
    cubes: Path | None = setting(None, "pretrain: folder of bat_*_<fold>.npy instead of a preprocessed folder")
    cube_folds: tuple[int, ...] = setting((0, 1, 2, 3, 4), "folds of --cubes to learn from")
    cube_val_folds: tuple[int, ...] = setting((5, 6), "folds of --cubes to validate on")

    pretrained: Path | None = setting(None, "train: any known checkpoint to take weights from", flags=("-w",))
    transfer: Literal["encoder", "all"] = setting("encoder", "what to take of --pretrained")
    min_coverage: float = setting(50.0, "least percentage of the encoder that --pretrained must fill")
    weights_axes: Literal["dhw", "as_stored"] = setting(
        "dhw", "published Genesis kernels: turned to our (D, H, W) axes, or as their authors stored them"
    )
    labels_csv: Path | None = setting(None, "classification: case,label[,label...] with a heading line")
    hidden: int = setting(1024, "classification: width of the dense layer before the last; 0: none")

    save_ckpt: bool = setting(True, "write checkpoints (last and best)")
    ckpt_store_dir: Path | None = setting(None, "folder of checkpoints/; None: --results")
    ckpt_path: Path | None = setting(None, "checkpoint to start from, to evaluate or to predict with")
    resume_training: bool = setting(False, "continue the run whose last.ckpt lies in --ckpt_store_dir (or --ckpt_path)")

    tta: bool = setting(False, "average over all flips of the mirrored axes")
    tta_axes: tuple[int, ...] | None = setting(None, "axes to flip instead of those that training mirrored")
    overlap: float = setting(0.5, "of neighbouring windows")
    blend: Literal["gaussian", "constant"] = setting("gaussian", "weights of overlapping windows")
    input: Path | None = setting(None, "predict: a scan or a folder of scans instead of a preprocessed folder")
    img_list: Path | None = setting(
        None, 'evaluate: scans and labels, "image label" a line, instead of a preprocessed folder'
    )
    save_preds: bool = setting(
        False,
        "evaluate: write label maps and probabilities; predict: probabilities beside the label maps",
        flags=("--save_probabilities",),
    )

    benchmark: bool = setting(False, "measure throughput and latency instead of learning")
    train_batches: int = setting(0, "steps of a benchmark pass; in training, limits an epoch; 0: all")
    test_batches: int = setting(0, "cases of a benchmark pass; in evaluation, limits the cases; 0: all")
    warmup: int = setting(5, "first steps left out of a benchmark")
    constant_batch: bool = setting(False, "benchmark: one batch on the device again and again, so that loading is free")
    profile: bool = setting(False, "trace a few steps and print the ten costliest operations")

    def __post_init__(self) -> None:
        positive = "nodes cpu_ranks nvol batch_size val_batch_size epochs patience val_every steps_per_epoch"
        positive += " depth min_fmap learning_rate train_cases step_epochs lr_decay new_layer_lr_mult outputs"
        positive += " picture_every plateau_epochs"
        not_negative = "gpus seed num_workers min_epochs skip_first_n_eval weight_decay gradient_clip_val"
        not_negative += " deep_supr_num train_batches test_batches warmup hidden"
        given = {name: value for name, value in vars(self).items() if value is not None}
        faults = [f"--{n} {given[n]} is not above 0" for n in positive.split() if given.get(n, 1) <= 0]
        faults += [f"--{n} {given[n]} is below 0" for n in not_negative.split() if given.get(n, 0) < 0]
        if self.gpus and self.cpu_ranks > 1:
            faults.append("--cpu_ranks is for --gpus 0")
        if not 0 <= self.oversampling <= 1:
            faults.append(f"--oversampling {self.oversampling} is no probability")
        if not 0 <= self.overlap < 1:
            faults.append(f"--overlap {self.overlap} is not in [0, 1)")
        for name in ("ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                faults.append(f"--{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("mirror_axes", "tta_axes"):
            if not set(getattr(self, name) or ()) <= set(range(self.dim)):
                faults.append(f"--{name} {getattr(self, name)}: a {self.dim}D network has axes 0..{self.dim - 1}")
        if self.min_epochs > self.epochs:
            faults.append(f"--min_epochs {self.min_epochs} is more than --epochs {self.epochs}")
        if self.exec_mode == "train" and self.dim == 2 and self.data2d_dim == 3 and self.batch_size % self.nvol:
            faults.append(f"--batch_size {self.batch_size} is no multiple of --nvol {self.nvol}")
        if self.exec_mode in ("evaluate", "predict") and self.ckpt_path is None and not self.benchmark:
            faults.append(f"--exec_mode {self.exec_mode} needs --ckpt_path, a checkpoint of a trained network")
        if self.compile and self.exec_mode not in ("pretrain", "train"):
            faults.append("--compile is for --exec_mode pretrain and train")
        if self.input is not None and self.exec_mode != "predict":
            faults.append("--input is for --exec_mode predict")
        _raise(faults + self._learning_faults() + self._semantic_faults() + _fold(self))

    def _semantic_faults(self) -> list[str]:
        """Faults of the methods of Semantic Genesis."""
        faults = []
        if self.method != "genesis" and self.dim != 3:
            faults.append(f"--method {self.method} is for --dim 3")
        if self.method != "genesis" and (self.cubes is not None or self.outputs != 1):
            faults.append("--cubes and --outputs are for --method genesis")
        if self.method != "semantic" and (self.patterns is not None or self.classes is not None):
            faults.append("--patterns and --classes are for --method semantic")
        if self.method == "semantic" and self.patch_size is not None:
            faults.append("--patch_size is not for --method semantic: the patterns have their size")
        if min(self.lambda_rec, self.lambda_cls) < 0:
            faults.append("--lambda_rec and --lambda_cls cannot be negative")
        if self.classes is not None and self.classes < 2:
            faults.append(f"--classes {self.classes} is below 2")
        if self.scheduler == "plateau" and self.exec_mode != "pretrain":
            faults.append("--scheduler plateau is for --exec_mode pretrain")
        return faults

    def _learning_faults(self) -> list[str]:
        """Faults of pre-training, transfer and classification."""
        faults = []
        pretrain, classify = self.exec_mode == "pretrain", self.kind == "classification"
        if classify and self.exec_mode not in ("train", "evaluate"):
            faults.append(f"--kind classification is for --exec_mode train and evaluate, not {self.exec_mode}")
        if classify and self.labels_csv is None:
            faults.append("--kind classification needs --labels_csv")
        if self.loss not in ("default", "ce", "bce" if classify else "dice"):
            faults.append(f"--loss {self.loss} is not for --kind {self.kind}")
        if self.loss == "dice" and self.focal:
            faults.append("--loss dice and --focal exclude each other")
        if (pretrain or classify) and self.deep_supervision:
            faults.append("--deep_supervision is for segmentation")
        if self.conv_seg and (pretrain or classify or self.brats):
            faults.append(
                "--conv_seg is for a segmentation of classes: not for pre-training, classification or --brats"
            )
        if self.constant_batch and not self.benchmark:
            faults.append("--constant_batch is for --benchmark: nothing is learnt from one batch")
        if (pretrain or classify) and self.benchmark:
            faults.append("--benchmark is for segmentation")
        if self.patch_size is not None and len(self.patch_size) != self.dim:
            faults.append(f"--patch_size {self.patch_size} has not the {self.dim} sides of --dim {self.dim}")
        if self.z_score is not None and (len(self.z_score) != 2 or self.z_score[-1] <= 0):
            faults.append(f"--z_score {self.z_score} is not a mean and a std above 0")
        if not 0 <= self.min_coverage <= 100:
            faults.append(f"--min_coverage {self.min_coverage} is not in 0..100 percent")
        if self.preset is not None and (meant := PRESETS[self.preset]["exec_mode"]) != self.exec_mode:
            faults.append(f"--preset {self.preset} is for --exec_mode {meant}")
        if self.patch_size is not None and self.exec_mode == "train":
            faults.append(
                "--patch_size is not for --exec_mode train: the plan has it; preprocess.py --patch_size sets it"
            )
        if self.method != "genesis" and not pretrain:
            faults.append(f"--method {self.method} is for --exec_mode pretrain")
        if self.img_list is not None and (self.exec_mode != "evaluate" or classify):
            faults.append("--img_list is for --exec_mode evaluate of a segmentation")
        for name in ("cubes", "z_score", "genesis"):
            if getattr(self, name) is not None and not pretrain:
                faults.append(f"--{name} is for --exec_mode pretrain")
        if self.pretrained is not None and self.exec_mode in ("evaluate", "predict"):
            faults.append("--pretrained starts a training; --ckpt_path names what to evaluate or predict with")
        if self.pretrained is not None and self.ckpt_path is not None and not self.resume_training:
            faults.append("give --pretrained (part of another network) or --ckpt_path (this very network), not both")
        if set(self.cube_folds) & set(self.cube_val_folds):
            faults.append("--cube_folds and --cube_val_folds share folds: validation would see training cubes")
        return faults

    @property
    def folder(self) -> Path:
        """The preprocessed folder."""
        part = "test" if self.exec_mode == "predict" and not self.benchmark else ""
        return preprocessed_folder(self.data, self.task, self.dim, part)

    @property
    def checkpoint_folder(self) -> Path:
        return (self.ckpt_store_dir or self.results) / "checkpoints"


@dataclass(frozen=True, kw_only=True)
class PreprocessSettings:
    """``preprocess.py``."""

    exec_mode: Literal["training", "val", "test", "cubes", "patterns"] = setting(
        "training",
        "which cases, and how they are written; cubes: Models Genesis cubes of unlabelled scans; patterns: Semantic "
        "Genesis's self-discovery in preprocessed cases",
    )
    data: Path = setting(Path("/data"), "folder that holds the dataset's folder")
    results: Path = setting(Path("/data"), "folder in which <task>_<dim>d is made")
    task: str | None = setting(None, "task number; the Decathlon has 01 to 10")
    name: str | None = setting(None, "the dataset's folder below --data, for a task that the Decathlon has not")
    dataset: Path | None = setting(
        None, 'a dataset\'s folder, or a list of "image label" lines, instead of --data and --task'
    )
    recipe: str = setting(
        "default", "the chain of preprocessing; medicalnet: as published, for NIfTI files that hold the depth first"
    )
    normalization: str | None = setting(None, "of all channels; None: ct for CT, else zscore")
    layout: str | None = setting(None, "of the dataset; None: the first that recognises it")
    formats: tuple[str, ...] | None = setting(None, "own file formats, asked first")
    patch_size: tuple[int, ...] | None = setting(
        None, "instead of the one found; --recipe medicalnet resizes every scan to it; None there: 56 448 448"
    )
    modality: Literal["CT", "MRI"] | None = setting(None, "where dataset.json does not tell; None: by its intensities")
    dim: Literal[2, 3] = setting(3, "dimensions of the network that will read the cases")
    ohe: bool = setting(False, "add a channel that is 1 where the scan is not empty")
    float16: bool = setting(False, "store images as float16: half the bytes")
    n_jobs: int = setting(-1, "processes; -1: one a core")
    verbose: bool = setting(False, "print every case")
    scale: int = setting(32, "cubes: of a scan")
    cube_size: tuple[int, ...] = setting((64, 64, 32), "cubes, patterns: rows, cols, deps, which are (W, H, D)")
    cube_folds: int = setting(10, "cubes: files that scans are dealt to where there are no subset<n> folders")
    features: Path | None = setting(
        None,
        "patterns: features.npy of main.py --exec_mode pretrain --method autoencoder; --dataset then names the "
        "preprocessed folder, and --task the one in --results",
    )
    classes: int = setting(44, "patterns: how many")
    instances: int = setting(200, "patterns: training scans that show a class")
    val_instances: int = setting(30, "patterns: validation scans that show a class")
    border: tuple[int, ...] = setting((100, 100, 30), "patterns: voxels (W, H, D) to stay off a scan's border")
    distance: float = setting(5.0, "patterns: voxels between two places, at least")
    multi_res: bool = setting(True, "patterns: two more crops of every training scan, of other sides in-plane")
    write_cubes: bool = setting(False, "patterns: write the cubes too, as published (many gigabytes)")
    seed: int = setting(1, "patterns: of references and places")
    nfolds: int = setting(5, "patterns: folds of the cross-validation")
    fold: int = setting(0, "patterns: the fold that validates")
    tissue_filter: bool = setting(
        True, "cubes, patterns: leave out those full of soft tissue; for lungs, always off for MRI"
    )
    tissue_max: float = setting(0.15, "cubes, patterns: largest share of soft tissue")

    def __post_init__(self) -> None:
        faults = []
        if len(self.cube_size) != 3:
            faults.append(f"--cube_size {self.cube_size} has not three sides")
        if len(self.border) != 3:
            faults.append(f"--border {self.border} has not three numbers")
        if (self.exec_mode == "patterns") != (self.features is not None):
            faults.append("--exec_mode patterns needs --features, and nothing else does")
        if (self.task is None) == (self.dataset is None):
            faults.append("give either --task (a number, below --data) or --dataset (a folder)")
        if self.name is not None and self.task is None:
            faults.append("--name names the folder of a --task")
        if self.recipe != "default" and (self.dim != 3 or self.ohe):
            faults.append(f"--recipe {self.recipe} is for --dim 3 without --ohe")
        if self.patch_size is not None and (len(self.patch_size) != self.dim or min(self.patch_size) < 1):
            faults.append(
                f"--patch_size {self.patch_size} is not {self.dim} sides above 0, as --dim {self.dim} asks for"
            )
        if self.n_jobs == 0 or self.n_jobs < -1:
            faults.append(f"--n_jobs {self.n_jobs}: a number of processes, or -1 for one a core")
        _raise(faults + _fold(self))


@dataclass(frozen=True, kw_only=True)
class DownloadSettings:
    """``download.py``."""

    task: str | None = setting(None, "Decathlon task number, 01 to 10")
    weights: str | None = setting(None, "name of published weights, see --list")
    results: Path = setting(Path("/data"), "where the task's folder, or pretrained_weights/, is made")
    list: bool = setting(False, "print everything that can be downloaded")
    mirror: str | None = setting(None, "base address instead of the publisher's")

    def __post_init__(self) -> None:
        if [self.task is not None, self.weights is not None, self.list].count(True) != 1:
            raise SettingsError("give one of --task, --weights and --list")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """``evaluate.py``."""

    preds: Path = setting(help="folder of predictions: NIfTI label maps, or npy")
    lbls: Path = setting(help="folder of true labels")
    results: Path | None = setting(None, "where metrics.json and the pictures go; None: --preds")
    images: Path | None = setting(None, "folder of the scans, as the pictures' background")
    tolerance_mm: float = setting(1.0, "surface Dice counts surfaces this close as equal")
    n_jobs: int = setting(-1, "processes; -1: one a core")

    def __post_init__(self) -> None:
        if self.tolerance_mm < 0:
            raise SettingsError(f"--tolerance_mm {self.tolerance_mm} is below 0")


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON-able values, for params.json and checkpoints."""
    plain = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in plain.items()}


def run_command(main: Callable[[], int]) -> NoReturn:
    """Exit with a command's status; what a user can mend is one line, without a traceback.

    Our own errors are ValueErrors and OSErrors that name the file and the remedy. Anything else is
    a fault of this program, and keeps its traceback.
    """
    try:
        sys.exit(main())
    except KeyboardInterrupt as stop:  # which may say more
        words = str(stop) or "interrupted; the same command again goes on from here (main.py: with --resume_training)"
        print(words, file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and type(error).__module__ == "builtins":
            raise
        sys.exit(f"error: {error}")
