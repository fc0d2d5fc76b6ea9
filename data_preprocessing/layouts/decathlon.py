"""The Medical Segmentation Decathlon's layout (doi:10.1038/s41467-022-30695-9), and nnU-Net's first version of it.

``dataset.json`` lists the scans; channels lie in one 4D file, or one a file as ``_0000``, ``_0001``, ...
"""

from __future__ import annotations

from pathlib import Path

from data_preprocessing.layouts.dataset import DATASET_FILE, Dataset
from data_preprocessing.layouts.description import described, read_description


class Decathlon:
    """``"modality": {"0": "CT"}``, ``"labels": {"1": "liver"}``, ``"training": [{"image": ..., "label": ...}]``."""

    def recognises(self, path: Path) -> bool:
        """See :data:`data_preprocessing.layouts.LAYOUTS`."""
        return (path / DATASET_FILE).is_file() or (path / "imagesTr").is_dir()

    def read(self, path: Path) -> Dataset:
        """Channels and classes as ``dataset.json`` names them."""
        values = read_description(path)
        return described(path, values, values.get("modality"))
