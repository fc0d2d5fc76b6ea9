"""Checkpoints that others have published: names, places and licences."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A published checkpoint. Where ``by_hand``, ``url`` is the page on which a browser finds it."""

    file: str
    url: str
    licence: str
    by_hand: bool = False


def published_files() -> dict[str, PublishedFile]:
    """Every checkpoint by the name that ``--weights`` takes."""
    arizona = "Arizona State University: non-commercial research only, patent pending"
    genesis_page = "https://github.com/MrGiovanni/ModelsGenesis/blob/master/competition/README.md"
    table = {}
    for depth in (10, 18, 34, 50, 101, 152, 200):
        page = f"https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet{depth}/resolve/main"
        for suffix in ("", "_23dataset") if depth <= 50 else ("",):
            file = f"resnet_{depth}{suffix}.pth"
            table[f"medicalnet_resnet{depth}{suffix}"] = PublishedFile(file, f"{page}/{file}", "MIT")
    file = "semantic_genesis_chest_ct.pt"
    zenodo = f"https://zenodo.org/record/4625297/files/{file}?download=1"
    table["semantic_genesis"] = PublishedFile(file, zenodo, arizona)
    for name, file in (
        ("models_genesis", "Genesis_Chest_CT.pt"),
        ("models_genesis_keras", "Genesis_Chest_CT.h5"),
        ("genesis_nnunet", "genesis_nnunet_luna16_006.model"),
    ):
        table[name] = PublishedFile(file, genesis_page, arizona, by_hand=True)
    return table
