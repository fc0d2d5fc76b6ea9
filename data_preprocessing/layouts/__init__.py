"""A dataset on disk, in any of the usual layouts, to a list of scans; one file a layout.

A new layout is a file beside these and a line in ``LAYOUTS``; a user's own is named by ``--layout``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from cases.registry import Registry, is_own
from cases.settings import Settings, setting
from data_preprocessing.layouts.dataset import DATASET_FILE, Dataset, DatasetError, repeated

__all__ = ["DATASET_FILE", "LAYOUTS", "Dataset", "DatasetError", "Layout", "LayoutSettings", "read_dataset"]


class Layout(Protocol):
    """What an entry of ``LAYOUTS`` makes."""

    def recognises(self, path: Path) -> bool:
        """Whether a folder, or a file, is of this layout."""

    def read(self, path: Path) -> Dataset:
        """The dataset. Raises DatasetError naming what is missing or cannot be understood, and the remedy."""


LAYOUTS: Registry[type[Layout]] = Registry(
    "layout",
    {  # asked in turn
        "img_list": "data_preprocessing.layouts.img_list:ImgList",
        "nnunet_v2": "data_preprocessing.layouts.nnunet_v2:NnunetV2",
        "decathlon": "data_preprocessing.layouts.decathlon:Decathlon",
        "brats": "data_preprocessing.layouts.brats:Brats",
        "folder": "data_preprocessing.layouts.folder:Folder",
    },
    needs=("recognises", "read"),
)


@dataclass(frozen=True, kw_only=True)
class LayoutSettings(Settings):
    """How the dataset lies on disk."""

    error: ClassVar[type[ValueError]] = DatasetError

    layout: str | None = setting(
        None,
        "decathlon (also nnU-Net v1), nnunet_v2, img_list, brats, folder, or an own one as module:object or "
        "file.py:object; None: the first that recognises the dataset",
        variants=LAYOUTS,
    )


def read_dataset(path: Path, layout: str | None = None) -> Dataset:
    """Read a dataset's folder, or its image list.

    Args:
        path: of the dataset.
        layout: its name in ``LAYOUTS``, or an own one; None: the first that recognises the path.

    Raises:
        DatasetError: naming what is missing or cannot be understood, and the remedy.
        RegistryError: for a layout that cannot be used.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} is not a folder; --data and --task, or --dataset, must name the dataset's")
    if layout is None:
        return next(known for known in _made(LAYOUTS) if known.recognises(path)).read(path)
    chosen: Layout = LAYOUTS.make(layout)
    return _read_own(layout, chosen, path) if is_own(layout) else chosen.read(path)


def _made(names: Iterable[str]) -> Iterable[Layout]:
    return (LAYOUTS.make(name) for name in names)


def _read_own(name: str, layout: Layout, path: Path) -> Dataset:
    """By a user's own layout, which may fail in any way and return anything."""
    try:
        dataset = layout.read(path)
    except (DatasetError, OSError):
        raise
    except Exception as error:
        raise DatasetError(f"{path}: --layout {name} cannot read it ({type(error).__name__}: {error})") from error
    if not isinstance(dataset, Dataset):
        raise DatasetError(f"{path}: --layout {name} returned a {type(dataset).__name__}, not a Dataset")
    if twice := repeated((*dataset.training, *dataset.test)):
        raise DatasetError(f"{path}: --layout {name} lists cases {', '.join(twice)} more than once")
    return dataset
