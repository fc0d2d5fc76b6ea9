"""Does pre-training help where labels are few? Fine-tuning from scratch against pre-trained weights.

    python scripts/transfer_experiment.py --dataset Task04_Hippocampus --work /results/transfer \\
        --plot docs/images/transfer_hippocampus.png

One fold: its training images, without their labels, pre-train a network (Models Genesis); then a few
labelled cases of them, drawn by the seed, fine-tune it, and as many steps train the same network from
scratch. Both are tested on the fold's validation cases, which no stage sees, with the weights of the last
step: nothing is chosen by the test. A run that is done is not repeated, so a killed experiment goes on; one
that was made with other settings is refused.
Semantic Genesis joins with --semantic, other pre-trainings with --weights NAME=FILE.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import main as command
import preprocess
from cases.case import list_cases
from cases.files import whole_file, write_json, write_text
from cases.plan import PLAN_FILE, Plan
from cases.settings import Settings, above, as_json, setting
from cases.splits import split
from cli.compose import parse
from cli.modes import parse_main
from cli.preprocess import parse_preprocess
from cli.run import run_command
from cli.steps import Step, decisive

NFOLDS, FOLD = 5, 0
Dice = dict[str, dict[int, list[float]]]  # arm -> labelled cases -> one mean Dice in percent a seed


@dataclass(frozen=True, kw_only=True)
class TransferExperimentSettings(Settings):
    """Which arms are compared, and how they are trained."""

    dataset: Path = setting(help="labelled dataset in the Decathlon's layout")
    work: Path = setting(help="folder of all runs")
    plot: Path | None = setting(None, "picture to write; None: transfer.png in --work")
    cases: tuple[int, ...] = setting((5, 10, 20), "labelled training cases", check=above(0))
    seeds: tuple[int, ...] = setting((1, 2, 3), "seeds of the drawn cases, of weights and of patches")
    steps: int = setting(300, "steps of every fine-tuning", check=above(0))
    learning_rate: float = setting(0.003, "peak learning rate of every fine-tuning", check=above(0))
    pretrain_epochs: int = setting(12, "epochs of a pre-training", check=above(0))
    pretrain_steps: int = setting(60, "steps of such an epoch, of four patches each", check=above(0))
    filters: tuple[int, ...] = setting((8, 16, 32, 64), "channels of the network's stages", check=above(0))
    transfer: Literal["encoder", "all"] = setting("encoder", "what fine-tuning takes of the pre-trained network")
    mirror_axes: tuple[int, ...] | None = setting(
        None, "axes that fine-tuning mirrors; no number: none; None: as the plan says"
    )
    semantic: bool = setting(False, "pre-train by Semantic Genesis too")
    weights: tuple[str, ...] = setting((), "further pre-trainings, each NAME=FILE")
    threads: int = setting(2, "threads of PyTorch", check=above(0))


def parse_arguments(argv: Sequence[str] | None) -> TransferExperimentSettings:
    return parse((TransferExperimentSettings,), argv, (__doc__ or "").split("\n")[0])[TransferExperimentSettings]


def experiment(options: TransferExperimentSettings) -> int:
    """Run what is not done yet, then write the table, ``results.json`` and the plot."""
    torch.set_num_threads(options.threads)
    folder = preprocessed(options.dataset, options.work)
    images = unlabelled(options, folder)
    arms: dict[str, Path | None] = {"scratch": None, "Models Genesis": pretrained(options, images)}
    if options.semantic:
        arms["Semantic Genesis"] = pretrained_semantic(options, images)
    for pair in options.weights:
        name, _, path = pair.partition("=")
        arms[name] = Path(path)
    dice: Dice = {arm: {n: [] for n in options.cases} for arm in arms}
    for seed in options.seeds:
        for n in options.cases:
            for arm, weights in arms.items():
                dice[arm][n].append(fine_tuned(options, folder, arm, weights, n, seed))
                report(options, dice)
    return 0


def preprocessed(dataset: Path, work: Path) -> Path:
    """The dataset's preprocessed folder, made where it is not there."""
    folder = work / f"{dataset.resolve().name}_3d"
    if preprocess.main(["--dataset", str(dataset), "--results", str(work)]):
        raise SystemExit(1)
    return folder


def unlabelled(options: TransferExperimentSettings, folder: Path) -> Path:
    """A folder that holds the fold's training images and nothing else."""
    images = options.work / "unlabelled"
    images.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / PLAN_FILE, images)
    for case in split(list_cases(folder), NFOLDS, FOLD)[0]:
        for name in (f"{case}_x.npy", f"{case}.json"):
            if not (images / name).is_file():
                shutil.copy(folder / name, images)
    return images


def pretrained(options: TransferExperimentSettings, images: Path) -> Path:
    """Best checkpoint of Models Genesis."""
    steps = ["--steps_per_epoch", options.pretrain_steps, "--batch_size", 4]
    schedule = ["--scheduler", "--learning_rate", 0.003, "--epochs", options.pretrain_epochs]
    return learnt(options, images, "pretrained_genesis", [*steps, *schedule])


def pretrained_semantic(options: TransferExperimentSettings, images: Path) -> Path:
    """Best checkpoint of Semantic Genesis: autoencoder, patterns of 16 voxels a side, classes and restoration."""
    plan = Plan.load(images)
    batches = ["--steps_per_epoch", options.pretrain_steps, "--epochs", options.pretrain_epochs]
    scans = ["--method", "autoencoder", "--patch_size", *plan.patch_size, "--batch_size", 4, "--learning_rate", 0.003]
    learnt(options, images, "semantic_autoencoder", [*scans, *batches])
    features = options.work / "semantic_autoencoder" / "features.npy"
    places: list[object] = ["--exec_mode", "patterns", "--dataset", images, "--features", features]
    places += ["--nfolds", NFOLDS, "--fold", FOLD]
    places += ["--classes", 8, "--instances", 40, "--val_instances", 20, "--cube_size", 16, 16, 16]
    places += ["--border", 0, 0, 0, "--no-tissue_filter"]
    if preprocess.main([str(value) for value in places]):
        raise SystemExit(1)
    cubes = ["--method", "semantic", "--min_fmap", 2, "--batch_size", 32, "--scheduler", "--learning_rate", 0.003]
    gentle = ["--genesis", "elastic_sigma=4", "elastic_alpha=100"]  # cubes have a quarter of the published side
    return learnt(options, images, "pretrained_semantic", [*cubes, *batches, *gentle], places, features)


def learnt(
    options: TransferExperimentSettings,
    images: Path,
    name: str,
    argv: Sequence[object],
    places: Sequence[object] = (),
    features: Path | None = None,
) -> Path:
    """Best checkpoint of a pre-training, which runs where it is not done yet.

    ``places`` are the arguments and ``features`` the source of the patterns that it learns, if any.
    """
    sources = {"images": images} | ({"features": features} if features else {})
    flags = common_flags(options, options.work / name, ["--exec_mode", "pretrain", "--data", images, *argv])
    patterns = decisive(parse_preprocess(list(map(str, places)))) if places else {}
    step = Step(folder=options.work / name, settings=patterns | main_settings(flags), sources=sources)
    if step.result() is None:
        shutil.rmtree(step.folder / "checkpoints", ignore_errors=True)  # a stopped run's: its seconds are not known
        seconds = run(flags)
        (best,) = (path for path in (step.folder / "checkpoints").glob("*.ckpt") if path.stem != "last")
        step.finish(checkpoint=best.name, seconds=seconds)
    return step.folder / "checkpoints" / str(step.recorded["checkpoint"])


def fine_tuned(
    options: TransferExperimentSettings, folder: Path, arm: str, weights: Path | None, cases: int, seed: int
) -> float:
    """Mean Dice in percent over the fold's validation cases after the last step."""
    results = options.work / f"{arm.replace(' ', '_').lower()}_n={cases}_seed={seed}"
    argv = ["--data", folder, "--train_cases", cases, "--seed", seed, "--epochs", 1, "--steps_per_epoch", options.steps]
    argv += ["--scheduler", "polynomial", "--learning_rate", options.learning_rate, "--batch_size", 2, "--no-save_ckpt"]
    if options.mirror_axes is not None:
        argv += ["--mirror_axes", *options.mirror_axes]
    sources = {"preprocessed folder": folder}
    if weights is not None:
        argv += ["--pretrained", weights, "--transfer", options.transfer]
        sources["pre-training"] = weights
    flags = common_flags(options, results, argv)
    step = Step(folder=results, settings=main_settings(flags), sources=sources)
    if step.result() is None:
        seconds = run(flags)
        logged = [
            json.loads(line.removeprefix("DLLL "))
            for line in (results / "logs.json").read_text(encoding="utf-8").splitlines()
        ]
        dice = next(record["data"]["Dice"] for record in logged if record["step"] == 0)
        step.finish(dice=dice, seconds=seconds)
    return float(step.recorded["dice"])


def common_flags(options: TransferExperimentSettings, results: Path, argv: Sequence[object]) -> list[str]:
    """main.py's arguments with those that all runs share."""
    common = ["--results", results, "--nfolds", NFOLDS, "--fold", FOLD, "--depth", len(options.filters) - 1]
    common += ["--filters", *options.filters, "--num_workers", 0, "--amp", "--layout", "NDHWC"]
    return [str(value) for value in (*argv, *common)]


def main_settings(flags: list[str]) -> dict[str, object]:
    """What main.py reads of these arguments, as far as it decides a result."""
    return decisive(parse_main(flags))


def run(flags: list[str]) -> float:
    """main.py in this process; the seconds that it took."""
    started = time.perf_counter()
    if command.main(flags):
        raise SystemExit(1)
    return time.perf_counter() - started


def report(options: TransferExperimentSettings, dice: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """``results.json``, ``table.md`` and the plot of what is done so far."""
    options.work.mkdir(parents=True, exist_ok=True)
    write_json(options.work / "results.json", {"settings": as_json(options), "dice": dice})
    write_text(options.work / "table.md", table(dice))
    draw(options.plot or options.work / "transfer.png", dice)


def table(dice: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """Markdown: mean Dice and its standard deviation over the seeds; each arm's mean gain over the first."""
    first = next(iter(dice.values()))
    lines = ["| labelled cases | " + " | ".join(dice) + " |", "|---" * (1 + len(dice)) + "|"]
    for n, reference in first.items():
        cells = []
        for by_cases in dice.values():
            values = by_cases[n]
            if not values:
                cells.append("-")
                continue
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            gain = np.subtract(values, reference[: len(values)]).mean()
            cells.append(f"{np.mean(values):.1f}{spread}" + (f" ({gain:+.1f})" if by_cases is not first else ""))
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, dice: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """Mean Dice by labelled cases, a line an arm and a point a run."""
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for number, (arm, by_cases) in enumerate(dice.items()):
        done = {n: values for n, values in by_cases.items() if values}
        places = np.arange(len(done)) + 0.06 * (number - (len(dice) - 1) / 2)
        means = [np.mean(values) for values in done.values()]
        spread = [float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for values in done.values()]
        axes.errorbar(places, means, yerr=spread, capsize=3, color=f"C{number}", label=arm)
        for place, values in zip(places, done.values(), strict=True):
            axes.plot([place] * len(values), values, ".", color=f"C{number}", alpha=0.5)
    counts = list(next(iter(dice.values())))
    axes.set_xticks(range(len(counts)), [str(n) for n in counts])
    axes.set(xlabel="labelled training cases", ylabel="mean Dice [%]", title="fine-tuning, same steps")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, keep_suffix=True) as temporary:
        figure.savefig(temporary)


if __name__ == "__main__":
    run_command(lambda: experiment(parse_arguments(None)))
