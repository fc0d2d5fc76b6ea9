"""Write a checkpoint's weights in another program's layout: nnU-Net v1, nnU-Net v2 or MedicalNet.

    python scripts/export.py --ckpt_path results/checkpoints/last.ckpt --to nnunet_v2 --out pretrained.pth

nnU-Net v1 and v2 take the file with ``-pretrained_weights``; both need a plan with the same stages. A layout of your
own is a function from a network to what is saved and a list of notes: ``--to my_layout.py:to_mine``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases.files import whole_file
from cases.plan import Plan
from cases.registry import RegistryError
from cases.settings import Settings, setting
from cli.compose import parse
from nets.weights.export import EXPORTS
from nets.weights.files import WeightsError
from nets.weights.own import plan_and_network
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings):
    """What is written, and where."""

    ckpt_path: Path = setting(help="checkpoint to read")
    to: str = setting(help="layout to write", variants=EXPORTS)
    out: Path = setting(help="file to write")


def export(ckpt_path: Path, to: str, out: Path) -> list[str]:
    """Write ``out`` whole or not at all. Returns notes. Raises WeightsError, and RegistryError for no such layout."""
    write = EXPORTS.get(to)
    weights = read_weights(ckpt_path)
    written = write(rebuild_network(weights))
    if not isinstance(written, tuple) or len(written) != 2:
        raise RegistryError(f"{to} is no export: it must return what is saved, and a list of notes")
    content, notes = written
    if to == "medicalnet" and "conv_seg.6.weight" in weights.tensors and weights.format == "own":
        notes.append(_size_note(plan_and_network(ckpt_path, weights.content)[0]))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        torch.save(content, temporary)
    return notes


def _size_note(plan: Plan) -> str:
    """What a file in MedicalNet's layout cannot hold: the size at which the network saw scans."""
    size = " ".join(map(str, plan.patch_size))
    if plan.recipe == "medicalnet":
        return f"main.py evaluates and predicts with it under --patch_size {size}, the size that scans were resized to"
    return f"it learnt from patches of {size} voxels, not from resized scans: to predict, take the checkpoint itself"


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where there is nothing to write."""
    settings = parse((ExportSettings,), argv, (__doc__ or "").split("\n")[0])[ExportSettings]
    try:
        notes = export(settings.ckpt_path, settings.to, settings.out)
    except (WeightsError, RegistryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*notes, f"{settings.out} written", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
