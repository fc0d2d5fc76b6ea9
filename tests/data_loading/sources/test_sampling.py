"""Sampling is pure, even, disjoint between ranks, and has nnU-Net's statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_loading.augmentation.noise import NoiseSettings
from data_loading.augmentation.pipeline import EFFECTS, Augmentation
from data_loading.augmentation.spatial import ScalingSettings
from data_loading.sources.sampling import Patch, PatchSampler, warp_box

SAMPLER = PatchSampler(
    seed=3,
    n_cases=7,
    batch_size=2,
    steps_per_epoch=5,
    patch_dhw=(8, 12, 16),
    augmentation=Augmentation.nnunet(),
)
ALWAYS_NOISY = replace(SAMPLER, augmentation=Augmentation.only("rotation", "noise", "gamma"))
SHAPE = (12, 16, 20)
NO_FOREGROUND = np.zeros((0, 4), np.int32)


def draw(sampler: PatchSampler, step: int, index: int = 0, foreground: np.ndarray = NO_FOREGROUND) -> Patch:
    return sampler.draw(sampler.patch_generator(step, index), SHAPE, foreground)


def drawn(sampler: PatchSampler, patch: Patch) -> dict[str, np.ndarray]:
    """What each intensity effect drew, by the registry's names."""
    names = {EFFECTS.get(name): name for name in EFFECTS}
    places = sampler.augmentation.places(sampler.channels, sampler.axes)
    return {names[type(effect)]: patch.intensity[first:end] for effect, first, end in places}


def noise_seed(patch: Patch) -> tuple[float, ...]:
    return tuple(drawn(ALWAYS_NOISY, patch)["noise"][1:])


def start(patch: Patch) -> np.ndarray:
    """First voxel of an unwarped, unmirrored patch."""
    return np.rint(patch.offset).astype(int)


def test_same_numbers_same_patch_and_any_other_number_another() -> None:
    first, again = draw(ALWAYS_NOISY, 11), draw(replace(ALWAYS_NOISY), 11)
    assert noise_seed(first) == noise_seed(again)
    assert np.array_equal(first.matrix, again.matrix)
    others = (
        draw(ALWAYS_NOISY, 11, 1),
        draw(ALWAYS_NOISY, 12),
        draw(replace(ALWAYS_NOISY, seed=4), 11),
        draw(ALWAYS_NOISY.for_rank(1, 2), 11),
        draw(ALWAYS_NOISY, 11 + SAMPLER.steps_per_epoch),
    )
    assert len({noise_seed(patch) for patch in (first, *others)}) == 6


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_case_is_visited_evenly_over_all_ranks(world_size: int) -> None:
    ranks = [SAMPLER.for_rank(rank, world_size) for rank in range(world_size)]
    for epoch in range(3):
        steps = range(epoch * 5, epoch * 5 + 5)
        visits = Counter(rank.case_index(step, i) for rank in ranks for step in steps for i in range(2))
        assert sum(visits.values()) == 10 * world_size
        assert max(visits.values()) - min(visits[c] for c in range(7)) <= 1


def test_epochs_have_other_orders() -> None:
    orders = {tuple(SAMPLER.case_index(epoch * 5 + step, 0) for step in range(5)) for epoch in range(6)}
    assert len(orders) > 3


def test_two_ranks_share_no_patch() -> None:
    keys = [
        {(s.case_index(step, i), noise_seed(draw(s, step, i))) for step in range(50) for i in range(2)}
        for s in (ALWAYS_NOISY.for_rank(rank, 2) for rank in range(2))
    ]
    assert len(keys[0]) == len(keys[1]) == 100
    assert not keys[0] & keys[1]


def test_foreground_is_oversampled_evenly_by_class() -> None:
    plain = replace(SAMPLER, augmentation=Augmentation(), patch_dhw=(1, 1, 1), oversampling=0.4)
    foreground = np.array([[1, 2, 3, 4]] * 99 + [[2, 5, 6, 7]], np.int32)
    starts = [tuple(start(draw(plain, step, foreground=foreground))) for step in range(2000)]
    one, two = starts.count((2, 3, 4)) / 2000, starts.count((5, 6, 7)) / 2000
    assert one == pytest.approx(0.2, abs=0.03)
    assert two == pytest.approx(0.2, abs=0.03)


def test_patches_stay_inside_and_reach_both_ends() -> None:
    plain = replace(SAMPLER, augmentation=Augmentation(), oversampling=0.0)
    starts = np.array([start(draw(plain, step)) for step in range(500)])
    assert starts.min(0).tolist() == [0, 0, 0]
    assert starts.max(0).tolist() == [4, 4, 4]


def test_a_volume_smaller_than_the_patch_is_centred() -> None:
    plain = replace(SAMPLER, augmentation=Augmentation(), oversampling=1.0)
    patch = plain.draw(plain.patch_generator(0, 0), (4, 16, 20), np.array([[1, 3, 3, 3]], np.int32))
    assert start(patch)[0] == -2


def test_effects_happen_as_often_as_nnunet_says() -> None:
    sampler = replace(SAMPLER, mirror_axes=(0, 2), channels=2)
    patches = [draw(sampler, step) for step in range(4000)]

    def share(values: list[bool]) -> float:
        return float(np.mean(values))

    assert share([p.warped for p in patches]) == pytest.approx(0.36, abs=0.03)
    numbers = [drawn(sampler, p) for p in patches]
    assert share([bool(n["noise"][0] > 0) for n in numbers]) == pytest.approx(0.1, abs=0.02)
    assert share([bool(n["blur"][0] > 0) for n in numbers]) == pytest.approx(0.1, abs=0.02)
    assert share([bool(n["brightness"][0] > 0) for n in numbers]) == pytest.approx(0.15, abs=0.02)
    assert share([bool(n["contrast"][0] > 0) for n in numbers]) == pytest.approx(0.15, abs=0.02)
    assert share([bool(n["low_resolution"][1] > 0) for n in numbers]) == pytest.approx(0.125, abs=0.02)
    assert share([bool(n["gamma_inverted"][0] > 0) for n in numbers]) == pytest.approx(0.1, abs=0.02)
    assert share([bool(n["gamma"][0] > 0) for n in numbers]) == pytest.approx(0.3, abs=0.03)
    still = [p for p in patches if not p.warped]
    mirrored = np.mean([np.diag(p.matrix) < 0 for p in still], axis=0)
    assert mirrored[0] == pytest.approx(0.5, abs=0.04)
    assert mirrored[1] == 0
    assert mirrored[2] == pytest.approx(0.5, abs=0.04)


def test_ranges() -> None:
    every = replace(SAMPLER, augmentation=Augmentation.only("rotation", "scaling", "noise", "gamma", "blur"))
    patches = [draw(every, step) for step in range(2000)]
    scale = np.array([np.cbrt(np.linalg.det(p.matrix)) for p in patches])
    assert 0.7 <= scale.min() < 0.75
    assert 1.35 < scale.max() <= 1.4
    cosine = np.array([(p.matrix / s)[2, 2] for p, s in zip(patches, scale, strict=True)])
    assert cosine.min() >= np.cos(np.deg2rad(30)) ** 2 - 1e-9
    numbers = [drawn(every, p) for p in patches]
    variance = np.array([float(n["noise"][0]) ** 2 for n in numbers])
    assert variance.max() <= 0.1 + 1e-7  # float32
    assert variance.mean() == pytest.approx(0.05, abs=0.005)
    gamma = np.array([n["gamma"][0] for n in numbers])
    assert (gamma.min(), gamma.max()) == (pytest.approx(0.7, abs=0.01), pytest.approx(1.5, abs=0.01))
    assert np.mean(gamma < 1) == pytest.approx(0.5, abs=0.04)
    sigma = np.array([n["blur"] for n in numbers])
    assert (sigma.min(), sigma.max()) == (pytest.approx(0.5, abs=0.01), pytest.approx(1.0, abs=0.01))


def test_anisotropic_patches_turn_in_plane_only() -> None:
    plane = replace(SAMPLER, in_plane=True, augmentation=Augmentation.only("rotation", "scaling"))
    angles = []
    for step in range(300):
        matrix = draw(plane, step).matrix
        assert matrix[0].tolist() == [1, 0, 0]
        assert matrix[:, 0].tolist() == [1, 0, 0]
        angles.append(np.rad2deg(np.arctan2(matrix[2, 1], matrix[1, 1])))
    assert max(np.abs(angles)) > 150


def test_a_warp_reads_only_the_box_it_needs() -> None:
    every = replace(SAMPLER, augmentation=Augmentation.only("rotation"), patch_dhw=(8, 8, 8))
    patch = every.draw(every.patch_generator(0, 0), (400, 400, 400), NO_FOREGROUND)
    begin, end = warp_box(patch, (8, 8, 8), (400, 400, 400))
    assert max(end - begin) <= 16
    corners = np.array([patch.matrix @ np.array(c) + patch.offset for c in np.ndindex(8, 8, 8)])
    assert (np.floor(corners.min(0)) >= begin).all()
    assert (np.floor(corners.max(0)) + 1 < end).all()


def test_neighbouring_slices_share_all_but_depth_and_noise() -> None:
    sampler = replace(ALWAYS_NOISY, patch_dhw=(1, 12, 16), in_plane=True)
    patch = draw(sampler, 3)
    slices = [sampler.neighbour(patch, i, 4, SHAPE[0]) for i in range(4)]
    depths = [s.offset[0] for s in slices]
    assert np.diff(depths).tolist() == [1, 1, 1]
    assert 0 <= depths[0] <= patch.offset[0] <= depths[3] + 1 <= SHAPE[0]
    assert all(np.array_equal(s.offset[1:], patch.offset[1:]) for s in slices)
    assert len({noise_seed(s) for s in slices}) == 4


def test_bad_settings_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"noise 1\.5 is not a probability; --noise_variance"):
        NoiseSettings(noise=1.5, noise_variance=(1.4, 0.7))
    with pytest.raises(ValueError, match=r"scaling_range 1\.4 0\.7 is not a range of positive numbers"):
        ScalingSettings(scaling_range=(1.4, 0.7))
