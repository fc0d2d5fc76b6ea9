"""Where a training begins: from nothing, from weights, or from where it was stopped."""

from __future__ import annotations

from pathlib import Path

from cases.files import write_text
from cases.plan import Plan
from cases.settings import Given
from nets.weights.matching import TransferSettings, load_pretrained
from pretraining.genesis.sampling import assignments
from runtime.devices import global_rank
from runtime.dllogger_backend import LogSettings
from training.checkpoint import LAST, CheckpointError, SaveSettings, StartSettings, read_checkpoint
from training.learning import LearningModule


def find_resumable(given: Given, plan: Plan, data: Path) -> Path | None:
    """The checkpoint that --resume_training continues from.

    Args:
        given: settings of the run.
        plan: of what it learns from.
        data: where that lies, for messages.

    Raises:
        CheckpointError: where there is none, or where its run had other settings or another plan; for a run that
            begins anew and would replace the last checkpoint of another.
    """
    saving = given[SaveSettings]
    last = saving.folder(given[LogSettings].results) / LAST
    if not saving.resume_training:
        if last.is_file() and saving.save_ckpt:
            raise CheckpointError(
                f"{last} belongs to an earlier run, which this one would replace: --resume_training goes on with it; "
                "to begin anew, give another --results or remove the file"
            )
        return None
    path = given[StartSettings].ckpt_path or last
    checkpoint = read_checkpoint(path)
    former = assignments(checkpoint.settings.get("genesis") or ())  # as earlier versions stored them
    checkpoint.check_run(given, former)
    checkpoint.check_plan(plan, data)
    return path


def start_weights(given: Given, module: LearningModule, data: Path, resume: Path | None) -> frozenset[str]:
    """Fill a new network from --ckpt_path (the very network) or --pretrained (any other), if either is given.

    Returns:
        names of the parameters that took nothing of --pretrained; empty without it.
    """
    start, transfer = given[StartSettings], given[TransferSettings]
    if resume is not None:
        return frozenset()
    if start.ckpt_path is not None:
        checkpoint = read_checkpoint(start.ckpt_path)
        checkpoint.check_kind(module.learns)
        checkpoint.check_plan(module.plan, data)
        checkpoint.fill(module.network, module.network_settings)
    elif transfer.pretrained is not None:
        report = load_pretrained(module.network, transfer.pretrained, transfer)
        if global_rank() == 0:
            results = given[LogSettings].results
            results.mkdir(parents=True, exist_ok=True)
            write_text(results / "pretrained.txt", "\n".join(report.lines()) + "\n")
            print(report, flush=True)
        return report.new
    return frozenset()
