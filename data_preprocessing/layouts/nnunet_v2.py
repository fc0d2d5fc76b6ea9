"""nnU-Net's second layout: scans are found in ``imagesTr``, not listed, and names are mapped to values."""

from __future__ import annotations

from pathlib import Path

from data_preprocessing.layouts.dataset import DATASET_FILE, Dataset, DatasetError
from data_preprocessing.layouts.description import described, read_description


class NnunetV2:
    """``"channel_names": {"0": "CT"}``, ``"labels": {"liver": 1}``; ``imagesTr/case_0000.nii.gz``."""

    def recognises(self, path: Path) -> bool:
        """See :data:`data_preprocessing.layouts.LAYOUTS`."""
        try:
            return (path / DATASET_FILE).is_file() and "channel_names" in read_description(path)
        except DatasetError:
            return False

    def read(self, path: Path) -> Dataset:
        """Channels and classes as ``dataset.json`` names them."""
        values = read_description(path)
        return described(path, values, values.get("channel_names"))
