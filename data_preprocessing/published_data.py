"""Data sets that others have published: files, places and licences. The Decathlon's are in planning/tasks.py."""

from __future__ import annotations

from dataclasses import dataclass

ARIZONA = "Arizona State University: non-commercial research only, patent pending"


@dataclass(frozen=True, kw_only=True)
class PublishedData:
    """A data set.

    Attributes:
        folder: that it becomes.
        page: that describes it, and on which a browser finds what has no link of its own.
        licence: its terms.
        files: name -> link; zip archives are unpacked into the folder. None has one: to be fetched by hand.
        holds: what lies in the folder then, for those who fetch it by hand.
    """

    folder: str
    page: str
    licence: str
    files: dict[str, str]
    holds: str


def _zenodo(record: int, *names: str) -> dict[str, str]:
    return {name: f"https://zenodo.org/record/{record}/files/{name}?download=1" for name in names}


def published_data() -> dict[str, PublishedData]:
    """Every data set by the name that ``--dataset`` takes."""
    first, rest = (f"subset{number}.zip" for number in range(7)), (f"subset{number}.zip" for number in range(7, 10))
    return {
        "transvw": PublishedData(
            folder="TransVW_data",
            page="https://zenodo.org/record/4625321",
            licence=ARIZONA,
            files=_zenodo(4625321, "TransVW_data.zip"),
            holds="Semantic Genesis' own patterns, as --patterns reads them",
        ),
        "luna16": PublishedData(
            folder="LUNA16",
            page="https://luna16.grand-challenge.org/Download/",
            licence="CC BY 4.0 (the scans of LIDC-IDRI: CC BY 3.0)",
            files=_zenodo(3723295, *first) | _zenodo(4121926, *rest),
            holds="subset0 to subset9 with .mhd and .raw files",
        ),
        "genesis_cubes": PublishedData(
            folder="genesis_cubes",
            page="https://github.com/MrGiovanni/ModelsGenesis",
            licence=ARIZONA,
            files={},
            holds="bat_32_s_64x64x32_<fold>.npy",
        ),
        "mrbrains18": PublishedData(
            folder="MRBrainS18",
            page="https://mrbrains18.isi.uu.nl/data/",
            licence="terms of the challenge's page",
            files={},
            holds="the scans with their labels, and MedicalNet's lists of them",
        ),
    }
