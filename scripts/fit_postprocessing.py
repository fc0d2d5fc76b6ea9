"""Find on validation predictions how large a region's components must be, for ``predict --postprocessing``.

    python main.py --exec_mode evaluate --ckpt_path C.ckpt --data /data/11_3d --save_preds --results out
    python scripts/fit_postprocessing.py --preds out/predictions_... --lbls /data/11_3d --out post.json

A size is kept only where it raises the mean Dice of the cases. A region that is neither predicted nor true counts as 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cases.regions import parse_regions, read_regions
from cases.settings import Settings, above, setting
from cli.compose import parse
from inference.components import SIZES, CaseMaps, fit_least, nested_regions, write_least
from inference.pairs import EvaluationError, dataset_classes, find_pairs, read_prediction, read_truth


@dataclass(frozen=True, kw_only=True)
class FitSettings(Settings):
    """What is compared, and what is tried."""

    preds: Path = setting(help="folder of label maps of validation cases")
    lbls: Path = setting(help="their true labels, or the preprocessed folder")
    out: Path = setting(help="JSON file to write")
    regions: tuple[str, ...] = setting((), "as for training; none: the regions.json beside the predictions, or classes")
    sizes: tuple[int, ...] = setting(SIZES, "voxels to try", check=above(0))


def fit(settings: FitSettings) -> str:
    """Write the sizes and say them in a line. Raises EvaluationError where there is nothing to compare."""
    pairs, faults = find_pairs(settings.preds, settings.lbls)
    names, values = dataset_classes(settings.lbls)
    if faults or not pairs or not names:
        fault = "; ".join(faults) or f"{settings.lbls} has no dataset.json or plan.json that names the classes"
        raise EvaluationError(fault)
    own = parse_regions(settings.regions, values) if settings.regions else read_regions(settings.preds)

    def cases() -> Iterator[CaseMaps]:
        for pair in pairs:
            label, geometry = read_truth(pair, values)
            yield read_prediction(pair.prediction, geometry, pair.label, values), label

    least = fit_least(cases, nested_regions(names, own), settings.sizes)
    write_least(settings.out, least)
    found = [f"{kind} {name}={size}" for kind, sizes in vars(least).items() for name, size in sizes.items()]
    return f"{settings.out}: {', '.join(found) or 'no size improves these'} ({len(pairs)} validation cases)"


def main(argv: Sequence[str] | None = None) -> int:
    """0, or 1 where nothing could be fitted."""
    settings = parse((FitSettings,), argv, (__doc__ or "").split("\n")[0])[FitSettings]
    try:
        print(fit(settings))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
