"""The autoencoder of whole scans: trained as a restoration without corruption, it ends in features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nets.heads import global_features
from nets.weights.own import read_own
from pretraining.autoencoder.network import Autoencoder
from pretraining.restoration import RestorationModule
from pretraining.semantic.files import write_features
from pretraining.source import Patches


class AutoencoderModule(RestorationModule):
    """RestorationModule of a :class:`pretraining.autoencoder.network.Autoencoder`."""

    learns = "autoencoder"


@torch.inference_mode()
def extract_features(
    network: Autoencoder, scans: Patches, shape_dhw: Sequence[int], device: torch.device
) -> np.ndarray:
    """One vector a scan, the bottleneck's mean over space: (scans, F) float32.

    Args:
        network: trained.
        scans: whole ones, in [0, 1].
        shape_dhw: what the network saw in training.
    """
    encoder = network.to(device).eval().encoder
    rng = np.random.default_rng(0)  # whole scans leave nothing to chance
    vectors = []
    for index in range(len(scans)):
        image = torch.from_numpy(scans.read(index, rng, shape_dhw))[None].to(device)
        vectors.append(global_features(encoder(image)[-1])[0].cpu().numpy())
    return np.stack(vectors)


def save_features(
    path: Path,
    network: Autoencoder,
    checkpoint: Path | None,
    scans: Patches,
    shape_dhw: Sequence[int],
    device: torch.device,
    *,
    say: Callable[[str], None] = print,
) -> None:
    """Write every scan's features, by the best epoch's weights where there is a checkpoint of it."""
    if checkpoint is not None:
        network.load_state_dict(read_own(checkpoint).weights)
    features = extract_features(network, scans, shape_dhw, device)
    write_features(path, scans.names, features)
    say(f"{path}: {features.shape[0]} scans, {features.shape[1]} features each")
