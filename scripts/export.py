"""Write a checkpoint's weights in the layout of nnU-Net v1, nnU-Net v2 or MedicalNet.

    python scripts/export.py --ckpt_path results/checkpoints/last.ckpt --to nnunet_v2 --out pretrained.pth

nnU-Net v1 takes the file with ``-pretrained_weights``, v2 likewise; both need a plan with the same stages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases.files import whole_file
from cases.plan import Plan
from cases.registry import RegistryError
from nets.weights.export import EXPORTS
from nets.weights.files import WeightsError
from nets.weights.own import plan_and_network
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network


def export(ckpt_path: Path, to: str, out: Path) -> list[str]:
    """Write ``out`` whole or not at all. Returns notes. Raises WeightsError."""
    weights = read_weights(ckpt_path)
    content, notes = EXPORTS.get(to)(rebuild_network(weights))
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="checkpoint to read")
    parser.add_argument(
        "--to", required=True, help=f"layout to write: {', '.join(EXPORTS)}, or an own one as file.py:function"
    )
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    try:
        notes = export(options.ckpt_path, options.to, options.out)
    except (WeightsError, RegistryError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(*notes, f"{options.out} written", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
