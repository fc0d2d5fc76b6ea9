"""The iterator: true epochs, the same batches in every run, exact resuming, plain errors."""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import types

from cli.modes import parse_main
from data_loading import dali, module
from data_loading.augmentation.pipeline import Augmentation
from data_loading.dali import PipelineSpec, check_shared_memory, shared_memory_bytes
from data_loading.errors import LoaderError
from data_loading.loader import Batch, PatchLoader
from data_loading.module import LoaderSettings, SliceSettings, patch_source, patch_spec
from data_loading.sources.reader import NOTHING
from data_loading.sources.sampling import warp_box

pytestmark = pytest.mark.loader
MakeFolder = Callable[..., tuple]
INLINE = LoaderSettings(num_workers=0, steps_per_epoch=5)
patch_loader = partial(module.patch_loader, augmentation=Augmentation.nnunet())


def noisy(_: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 12, 16, 20))


@pytest.fixture
def cases(make_folder: MakeFolder) -> tuple:
    return make_folder(4, channels=2, image=noisy)


def sums(batches: Iterable[Batch]) -> list[tuple[float, int]]:
    """A fingerprint of every batch."""
    return [(float(b["image"].double().sum()), int(b["label"].long().sum())) for b in batches]


def take(loader: PatchLoader, count: int) -> list[tuple[float, int]]:
    batches = iter(loader)
    return sums(next(batches) for _ in range(count))


def test_batches_have_the_promised_form(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        batch = next(iter(loader))
    assert batch["image"].shape == (2, 2, 8, 12, 16)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (2, 1, 8, 12, 16)
    assert batch["label"].dtype == torch.uint8


@pytest.mark.parametrize("data2d_dim", [2, 3])
def test_2d_batches_have_no_depth(make_folder: MakeFolder, data2d_dim: int) -> None:
    settings, slices = replace(INLINE, batch_size=6), SliceSettings(nvol=3, data2d_dim=data2d_dim)
    with patch_loader(*make_folder(4, patch_size=(12, 16)), settings, slices=slices) as loader:
        batch = next(iter(loader))
    assert batch["image"].shape == (6, 1, 12, 16)
    assert batch["label"].shape == (6, 1, 12, 16)


def test_epochs_have_their_length_also_after_an_interrupted_one(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        assert len(loader) == 5
        assert [len(sums(loader)) for _ in range(3)] == [5, 5, 5]
        interrupted = take(loader, 2)
        again = [sums(loader) for _ in range(3)]
        assert [len(epoch) for epoch in again] == [5, 5, 5]
        assert again[0][:2] == interrupted  # the interrupted epoch from its start
        assert loader.epoch == 6
        assert len({batch for epoch in again for batch in epoch}) == 15


def test_steps_follow_from_the_cases(cases: tuple) -> None:
    folder, plan, names = cases
    settings = replace(INLINE, steps_per_epoch=None, batch_size=3)
    with (
        patch_loader(folder, plan, names, settings) as one,
        patch_loader(folder, plan, names, settings, world_size=2) as two,
    ):
        assert (len(one), len(two)) == (2, 1)


def test_runs_workers_and_threads_make_no_difference(cases: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_workers", lambda wanted: wanted)
    with patch_loader(*cases, INLINE) as loader:
        expected = sums(loader) + sums(loader)
    for workers, threads in ((0, 3), (2, 1)):
        with patch_loader(*cases, replace(INLINE, num_workers=workers)) as loader:
            loader._spec = replace(loader._spec, num_threads=threads)
            assert sums(loader) + sums(loader) == expected


def test_ranks_see_different_patches(cases: tuple) -> None:
    seen = []
    for rank in range(2):
        with patch_loader(*cases, INLINE, rank=rank, world_size=2) as loader:
            seen.append(set(sums(loader)) | set(sums(loader)))
    assert len(seen[0]) == len(seen[1]) == 10
    assert not seen[0] & seen[1]


def test_resuming_within_an_epoch_continues_exactly(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        whole = sums(loader) + sums(loader)
    with patch_loader(*cases, INLINE) as loader:
        sums(loader)
        take(loader, 2)
        state = loader.state_dict()
    assert (state["epoch"], state["step"]) == (1, 2)
    with patch_loader(*cases, INLINE) as loader:
        loader.load_state_dict(state)
        loader.set_epoch(1)  # as Lightning does
        assert sums(loader) == whole[7:]
        assert loader.state_dict()["epoch"] == 2


def test_resuming_with_another_batch_size_is_refused_within_an_epoch_only(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        take(loader, 2)
        within = loader.state_dict()
    with patch_loader(*cases, replace(INLINE, batch_size=3)) as loader:
        with pytest.raises(LoaderError, match=r"other settings: batch_size 2 -> 3"):
            loader.load_state_dict(within)
        loader.load_state_dict(within | {"epoch": 4, "step": 0})
        assert loader.epoch == 4


def test_set_epoch_chooses_the_patches(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        sums(loader)
        second = sums(loader)
    with patch_loader(*cases, INLINE) as loader:
        batches = iter(loader)
        loader.set_epoch(1)  # Lightning makes the iterator first
        assert sums(batches) == second


def test_a_kept_batch_is_not_overwritten(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        kept = list(loader)
        loader.set_epoch(0)
        assert sums(kept) == sums(loader)


def test_a_constant_batch_repeats_without_loading(cases: tuple) -> None:
    with patch_loader(*cases, INLINE, constant=True) as loader:
        batches = sums(loader) + sums(loader)
    assert len(batches) == 10
    assert len(set(batches)) == 1


def test_waiting_is_measured(cases: tuple) -> None:
    with patch_loader(*cases, INLINE) as loader:
        assert loader.wait_seconds == 0
        sums(loader)
        assert loader.wait_seconds > 0


def test_unlabelled_cases_give_images_alone(make_folder: MakeFolder) -> None:
    with patch_loader(*make_folder(2, labelled=False), INLINE, labelled=False) as loader:
        assert set(next(iter(loader))) == {"image"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_case_is_named(cases: tuple, workers: int) -> None:
    folder, _, names = cases
    for name in names:
        (folder / f"{name}_x.npy").write_bytes(b"broken")
    with (
        patch_loader(*cases, replace(INLINE, num_workers=workers)) as loader,
        pytest.raises(ValueError, match=r"case_\d\d_x\.npy cannot be read .* run preprocess\.py again"),
    ):
        next(iter(loader))


def spec_of(cases: tuple) -> PipelineSpec:
    return patch_spec(patch_source(*cases, INLINE, Augmentation(), compiled=True), cases[1], INLINE, device_id=None)


def test_shared_memory_is_what_a_pipeline_comes_to_take(make_folder: MakeFolder) -> None:
    """Boxes of every size, until each of DALI's buffers has held a large one."""
    folder, plan, cases = make_folder(3, shape_dhw=(40, 44, 48), patch_size=(24, 28, 32))
    settings = LoaderSettings(batch_size=2, num_workers=2, steps_per_epoch=40)
    source = patch_source(folder, plan, cases, settings, Augmentation.only("rotation", "scaling"), compiled=False)
    spec = patch_spec(source, plan, settings, device_id=None)
    spec = replace(spec, num_workers=2)
    with PatchLoader(source, spec, steps=40) as loader:
        for _ in loader:
            written = written_to_shared_memory()
    assert 0.6 * shared_memory_bytes(spec) < written <= 1.05 * shared_memory_bytes(spec)


def written_to_shared_memory() -> int:
    """Bytes of the pages that this process has seen of its workers' shared memory."""
    pages, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = "/dev/shm/nvidia_dali" in line
        elif ours and line.startswith("Rss:"):
            pages += 1024 * int(line.split()[1])
    return pages


def test_the_largest_box_is_as_large_as_any_that_is_drawn(make_folder: MakeFolder) -> None:
    for patch, shape in (((24, 28, 32), (90, 90, 90)), ((24, 28, 32), (30, 90, 40)), ((8, 32, 32), (90, 90, 90))):
        folder, plan, cases = make_folder(1, shape_dhw=shape, patch_size=patch)
        settings = LoaderSettings(batch_size=1, num_workers=0, steps_per_epoch=1)
        source = patch_source(folder, plan, cases, settings, Augmentation.only("rotation", "scaling"), compiled=False)
        rng, most = np.random.default_rng(0), 0
        for _ in range(3000):
            drawn = source.sampler.draw(rng, shape, NOTHING)
            start, end = warp_box(drawn, patch, shape)
            most = max(most, int(np.prod(end - start)))
        assert 0.85 * source.box_voxels <= most <= source.box_voxels
    still = patch_source(folder, plan, cases, settings, Augmentation(), compiled=False)
    assert still.box_voxels == np.prod(patch)


def test_what_cannot_happen_has_no_operators(cases: tuple) -> None:
    """nnU-Net's graph has many; without augmentation only the patch passes through."""

    def operators(augmentation: Augmentation) -> int:
        source = patch_source(*cases, INLINE, augmentation, compiled=False)
        pipeline = dali._pipeline(
            source, patch_spec(source, cases[1], INLINE, device_id=None), batch_size=2, num_threads=1, device_id=None
        )
        pipeline.build()
        return len(pipeline._ops)

    off = dict.fromkeys(("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted"), 0.0)
    flags = [text for name, value in off.items() for text in (f"--{name}", str(value))]
    alone = Augmentation.of(parse_main(["--exec_mode", "train", *flags, "--gamma", "0", "--scaling", "0"]))
    every, rotation, none = operators(Augmentation.nnunet()), operators(alone), operators(Augmentation())
    assert none <= 4 and none < rotation < every / 4


@pytest.mark.parametrize("workers", [0, 1])
def test_float16_travels_as_it_is_stored(make_folder: MakeFolder, workers: int) -> None:
    folder, plan, cases = make_folder(2, dtype="float16")
    settings = replace(INLINE, num_workers=workers)
    batches = []
    for compiled in (True, False):
        source = patch_source(folder, plan, cases, settings, Augmentation.only("mirror"), compiled=compiled)
        spec = patch_spec(source, plan, settings, device_id=None)
        assert source.half is not compiled and (spec.ports[0].dtype == types.DALIDataType.FLOAT16) is not compiled
        with PatchLoader(source, spec, steps=source.sampler.steps_per_epoch) as loader:
            batches.append([batch["image"].clone() for batch in loader])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*batches, strict=True))
    assert batches[0][0].dtype == torch.float32


def test_too_little_shared_memory_is_said_before(cases: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = namedtuple("stat", "f_bavail f_blocks f_frsize")
    monkeypatch.setattr(dali.os, "statvfs", lambda _: stat(1, 1, 4096))
    spec = replace(spec_of(cases), num_workers=2)
    with pytest.raises(LoaderError, match=r"/dev/shm has 0 MiB free.*--shm-size=1g.*--num_workers 0"):
        check_shared_memory(spec)
    enough = shared_memory_bytes(spec) // 4096 + 1
    monkeypatch.setattr(dali.os, "statvfs", lambda _: stat(enough, enough, 4096))
    check_shared_memory(spec)
    with pytest.raises(LoaderError, match=r"8 ranks on this machine need up to .* MiB: 2 workers each, .* --ipc=host"):
        check_shared_memory(spec, local_ranks=8)  # each alone would fit


@pytest.mark.parametrize(("workers", "batch_size", "batches"), [(1, 2, 2), (4, 2, 4), (8, 2, 8), (7, 2, 8), (8, 64, 2)])
def test_every_worker_has_a_sample_at_hand(cases: tuple, workers: int, batch_size: int, batches: int) -> None:
    spec = replace(spec_of(cases), num_workers=workers, batch_size=batch_size)
    assert spec.read_ahead == batches
    assert batches * batch_size >= workers
    assert shared_memory_bytes(spec) >= (batches + 2) * batch_size * (2 * 4 + 1) * 8 * 12 * 16


def test_a_limit_on_the_steps_wins(cases: tuple) -> None:
    assert len(patch_loader(*cases, replace(INLINE, train_batches=3))) == 3
    assert LoaderSettings().steps is None


def test_no_cases_is_an_error(cases: tuple) -> None:
    folder, plan, _ = cases
    with pytest.raises(LoaderError, match="no training cases"):
        patch_loader(folder, plan, [], INLINE)


@pytest.mark.gpu
def test_the_gpu_makes_the_batches_of_the_cpu(cases: tuple) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with patch_loader(*cases, INLINE) as cpu, patch_loader(*cases, INLINE, device_id=0) as gpu:
        for ours, theirs in zip(cpu, gpu, strict=True):
            assert theirs["image"].device.type == "cuda"
            assert float((ours["image"] - theirs["image"].cpu()).abs().median()) < 1e-3
            assert float((ours["label"] != theirs["label"].cpu()).float().mean()) < 2e-3
