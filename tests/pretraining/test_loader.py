import pickle
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from data_loading.errors import LoaderError
from data_loading.module import LoaderSettings
from pretraining.corruption import Unchanged
from pretraining.genesis.corruption import GenesisCorruption
from pretraining.genesis.cubes import CubeError, write_cubes
from pretraining.genesis.device import transform_on_device
from pretraining.genesis.sampling import GenesisSettings
from pretraining.genesis.source import CasePatches, CubePatches, cube_plan
from pretraining.loader import (
    RestorationDataModule,
    RestorationLoader,
    _spec,
    restoration_loader,
    say_why_not,
    workers_corrupt,
)
from tests.pretended_gpu import pretended_gpu

PATCH = (8, 12, 16)
UNCHANGED = GenesisCorruption(GenesisSettings(transformations=("flip",), flip_probability=0.0))


def loading(**changes):
    return LoaderSettings(**({"batch_size": 3, "num_workers": 0, "seed": 5} | changes))


@pytest.fixture
def folder(make_folder):
    """Three cases of two channels, stored values between -2 and 2, which their json records as the range."""
    rng = np.random.default_rng(0)
    volumes = [rng.uniform(-2.5, 2, (2, 12, 16, 20)).astype(np.float32) for _ in range(3)]
    folder, plan, cases = make_folder(3, channels=2, labelled=False, image=lambda i: volumes[i])
    return folder, plan, cases, volumes


def batches(loader, epochs=1):
    with loader:
        return [batch for _ in range(epochs) for batch in loader]


def test_patches_are_the_scans_own_intensities_as_zero_to_one(folder):
    path, plan, cases, volumes = folder
    patches = CasePatches(path, cases, 2)
    for batch in batches(restoration_loader(patches, plan, loading(), UNCHANGED, steps=4)):
        assert torch.equal(batch["image"], batch["target"])
        assert batch["image"].shape == (3, 2, *PATCH)
        for patch in batch["target"].numpy():
            places = [
                np.lib.stride_tricks.sliding_window_view(np.clip((v[0] + 2) / 4, 0, 1), PATCH).reshape(-1, *PATCH)
                for v in volumes
            ]
            assert min(np.abs(p - patch[0]).max(axis=(1, 2, 3)).min() for p in places) < 1e-6


def test_every_scan_is_seen_alike_often_and_batches_are_pure(folder):
    path, plan, cases, _ = folder
    patches = CasePatches(path, cases, 2)
    genesis = GenesisCorruption(GenesisSettings(shuffle_windows=50))
    first, again = (batches(restoration_loader(patches, plan, loading(), genesis, steps=3), epochs=2) for _ in range(2))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0]["image"], first[3]["image"])  # the next epoch is another
    assert not torch.equal(first[0]["image"], first[0]["target"])
    source = restoration_loader(patches, plan, loading(), genesis, steps=3)._pairs
    assert sorted(source.sampler.case_index(0, i) for i in range(3)) == [0, 1, 2]


def test_validation_repeats_its_pairs(folder):
    path, plan, cases, _ = folder
    patches = CasePatches(path, cases, 2)
    seen = batches(
        restoration_loader(patches, plan, loading(), GenesisCorruption(GenesisSettings()), steps=2, repeats=True),
        epochs=2,
    )
    assert all(torch.equal(seen[i]["image"], seen[i + 2]["image"]) for i in range(2))
    assert not torch.equal(seen[0]["image"], seen[1]["image"])


def test_the_worker_and_the_device_draw_the_same_corruption(folder):
    path, plan, cases, _ = folder
    settings = GenesisSettings(shuffle_windows=100)
    loader = restoration_loader(CasePatches(path, cases, 2), plan, loading(), GenesisCorruption(settings), steps=1)
    (batch,) = batches(loader)
    untouched = restoration_loader(CasePatches(path, cases, 2), plan, loading(), UNCHANGED, steps=1)
    (plain,) = batches(untouched)
    image, target = transform_on_device(plain["target"], loader._pairs.seeds(0), settings)
    torch.testing.assert_close(image, batch["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(target, batch["target"], atol=1e-5, rtol=0)


def test_two_dimensional_plans_read_slices(folder):
    path, plan, cases, _ = folder
    plan = plan.with_(dim=2, patch_size=(12, 16), mirror_axes=())
    (batch,) = batches(
        restoration_loader(CasePatches(path, cases, 2), plan, loading(), GenesisCorruption(GenesisSettings()), steps=1)
    )
    assert batch["image"].shape == (3, 2, 12, 16)


@pytest.fixture
def cubes(tmp_path):
    """Cubes of (rows, cols, deps) = (16, 12, 8) that hold their own number in one corner."""
    rng = np.random.default_rng(1)
    made = rng.random((7, 16, 12, 8), dtype=np.float32)
    for number, cube in enumerate(made):
        cube[15, 0, 0] = number / 10
    write_cubes(tmp_path / "bat_4_s_16x12x8_0.npy", made[:4])
    write_cubes(tmp_path / "bat_4_s_16x12x8_1.npy", made[4:])
    return tmp_path, made


def test_published_cube_files_are_read_transposed_and_each_once(cubes):
    folder, made = cubes
    patches = CubePatches(folder, (0, 1))
    plan = cube_plan(folder, patches.size_dhw)
    assert plan.patch_size == PATCH
    seen = torch.cat(
        [b["target"] for b in batches(restoration_loader(patches, plan, loading(batch_size=1), UNCHANGED, steps=7))]
    )
    numbers = [round(10 * float(patch[0, 0, 0, 15])) for patch in seen]
    assert sorted(numbers) == list(range(7))
    for number, patch in zip(numbers, seen.numpy(), strict=True):
        np.testing.assert_array_equal(patch[0], made[number].transpose(2, 1, 0))


def test_cubes_travel_to_workers_without_their_files(cubes):
    folder, made = cubes
    patches = CubePatches(folder, (0, 1))
    patches.read(0, np.random.default_rng(0), PATCH)
    assert len(pickle.dumps(patches)) < made.nbytes / 10
    with loader_of_cubes(folder, num_workers=1) as loader:
        assert next(iter(loader))["image"].shape == (3, 1, *PATCH)


def test_batches_are_those_of_the_previous_revision(tmp_path):
    """Places, order and corruptions; the numbers were made by revision 12bece4."""
    write_cubes(tmp_path / "bat_4_s_16x12x8_0.npy", np.random.default_rng(1).random((7, 16, 12, 8), dtype=np.float32))
    patches, genesis = CubePatches(tmp_path, (0,)), GenesisCorruption(GenesisSettings(shuffle_windows=50))
    loader = restoration_loader(patches, cube_plan(tmp_path, patches.size_dhw), loading(), genesis, steps=2)
    assert loader._pairs.seeds(3) == [481896613804398453, 8585949546671136827, 5382235885065254405]
    found = [[b["image"].mean(), b["target"][0, 0, 0, 0, 0], b["image"][2, 0, 3, 4, 5]] for b in batches(loader, 2)]
    expected = [
        [0.479952, 0.897539, 0.518496],
        [0.485501, 0.283802, 0.98666],
        [0.579756, 0.926603, 0.942553],
        [0.50994, 0.289001, 0.037178],
    ]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def loader_of_cubes(folder, **changes):
    patches = CubePatches(folder, (0, 1))
    return restoration_loader(patches, cube_plan(folder, patches.size_dhw), loading(**changes), UNCHANGED, steps=2)


def test_bad_cubes_are_named(cubes):
    folder, made = cubes
    with pytest.raises(CubeError, match=r"not so for \[4\]"):
        CubePatches(folder, (0, 4))
    write_cubes(folder / "bat_4_s_16x12x8_2.npy", made * 300)
    patches = CubePatches(folder, (2,))
    with pytest.raises(LoaderError, match=r"bat_4_s_16x12x8_2.npy: cube \d holds values .* not within"):
        batches(restoration_loader(patches, cube_plan(folder, patches.size_dhw), loading(), UNCHANGED, steps=1))


def test_an_epoch_validates_in_proportion_and_sees_each_scan(folder):
    path, plan, cases, _ = folder
    train, validation = CasePatches(path, cases[:2], 2), CasePatches(path, cases[2:], 2)

    def steps(**changes):
        return RestorationDataModule(train, validation, plan, loading(**changes), UNCHANGED).steps()

    assert steps(batch_size=4) == (16, 8)  # 32 patches of each scan
    assert steps(steps_per_epoch=1) == (1, 1)


def test_patches_of_air_alone_are_drawn_again(make_folder):
    volume = np.full((1, 12, 16, 60), -2, np.float32)
    volume[..., 25:30] = 1.0
    folder, plan, cases = make_folder(1, labelled=False, image=lambda i: volume)
    loader = restoration_loader(CasePatches(folder, cases, 1), plan, loading(batch_size=8), UNCHANGED, steps=4)
    patches = torch.cat([batch["target"] for batch in batches(loader)])
    assert (patches.flatten(1).std(1) > 0).all()


def test_no_scans_is_an_error(tmp_path):
    with pytest.raises(LoaderError, match="no scans to learn from"):
        CasePatches(tmp_path, [], 1)


@pytest.fixture
def left_to_the_device(monkeypatch):
    """The way of a GPU's batches, on the CPU."""
    monkeypatch.setattr("pretraining.loader.workers_corrupt", lambda corruption, device_id: False)


class Counted(GenesisCorruption):
    """Counts the batches that were corrupted."""

    batches = 0

    def apply_device(self, batch, drawn):
        Counted.batches += 1
        return super().apply_device(batch, drawn)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_workers_draw_reaches_the_device_with_the_batch(folder, left_to_the_device, num_workers):
    path, plan, cases, _ = folder
    patches, settings = CasePatches(path, cases, 2), GenesisCorruption(GenesisSettings(shuffle_windows=100))
    made = []
    for corrupts in (False, True):
        loader = restoration_loader(patches, plan, loading(num_workers=num_workers), settings, steps=2)
        if corrupts:
            loader = on_the_cpu(loader, plan)
        made.append(batches(loader, epochs=2))
    for ours, theirs in zip(*made, strict=True):
        torch.testing.assert_close(ours["image"], theirs["image"], atol=1e-5, rtol=0)
        assert torch.equal(ours["target"], theirs["target"])
        assert set(ours) == {"image", "target"}


def on_the_cpu(loader, plan):
    """The same batches, corrupted by the workers."""
    source = replace(loader._pairs, corrupts=True)
    return RestorationLoader(source, _spec(source, plan, loading(), None), identity={})


def test_a_batch_is_corrupted_before_the_one_before_it_is_handed_out(folder, left_to_the_device):
    path, plan, cases, _ = folder
    Counted.batches = 0
    genesis = Counted(GenesisSettings(shuffle_windows=20))
    with restoration_loader(CasePatches(path, cases, 2), plan, loading(), genesis, steps=3) as loader:
        seen = []
        for _ in loader:
            seen.append(Counted.batches)
            assert loader.state_dict()["step"] == len(seen)
        assert seen == [2, 3, 3]
        iterator = iter(loader)
        before = next(iterator)
        resumed = restoration_loader(CasePatches(path, cases, 2), plan, loading(), genesis, steps=3)
        resumed.load_state_dict(loader.state_dict())
        with resumed:
            assert torch.equal(next(iter(resumed))["image"], next(iterator)["image"])
        loader.set_epoch(1)
        loader.set_epoch(0)  # what was computed ahead is no longer wanted
        loader.set_epoch(1)
        assert torch.equal(next(iter(loader))["image"], before["image"])


class PretendedStream:
    """Writes down what is asked of streams; the consumer's is "main"."""

    current: ClassVar[list[str]] = ["main"]
    said: ClassVar[list[tuple[str, ...]]] = []

    def __init__(self, device=None, name="side"):
        self.device, self.name = torch.device("cuda", 0), name

    def __enter__(self):
        self.current.append(self.name)

    def __exit__(self, *_):
        self.current.pop()

    def wait_stream(self, other):
        self.said.append((self.name, "waits for", other.name))

    def synchronize(self):
        raise AssertionError("the host waits")


def test_a_gpu_corrupts_ahead_on_a_stream_of_its_own_and_the_host_never_waits(folder, monkeypatch):
    path, plan, cases, _ = folder
    said = PretendedStream.said
    said.clear()

    class Seen(GenesisCorruption):
        def apply_device(self, batch, drawn):
            said.append((PretendedStream.current[-1], "corrupts"))
            return batch + 1, batch

    def fetched(loader, step):
        said.append((PretendedStream.current[-1], "fetches", str(step)))
        batch = torch.empty(3, 2, *PATCH, device="cuda")
        return {"patch": batch, **{f"drawn_{i}": batch for i in range(3)}}

    monkeypatch.setattr("runtime.triton.available", lambda: True)
    monkeypatch.setattr("pretraining.loader.PatchLoader._batch", fetched)
    monkeypatch.setattr("torch.cuda.Stream", PretendedStream)
    monkeypatch.setattr("torch.cuda.stream", lambda stream: stream)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: PretendedStream(name="main"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: said.append((stream.name, "keeps")))
    loader = restoration_loader(
        CasePatches(path, cases, 2), plan, loading(), Seen(GenesisSettings()), steps=2, device_id=0
    )
    with pretended_gpu() as gpu, gpu.busy():
        for batch in loader:
            said.append(("main", "trains"))
            assert batch["image"].device.type == "cuda"
    keeps = [("main", "waits for", "side"), ("main", "keeps"), ("main", "keeps")]
    first, second = ([("side", "fetches", str(i)), ("side", "corrupts")] for i in range(2))
    assert said == [*first, *keeps, *second, ("main", "trains"), *keeps, ("main", "trains")]


def test_a_corruption_without_a_device_form_is_left_to_the_workers(capsys):
    class Own:
        def apply_cpu(self, patch, seed):
            return patch, patch

    assert workers_corrupt(Own(), 0)
    assert workers_corrupt(Unchanged(), None)
    assert not workers_corrupt(Unchanged(), 0)


def test_workers_corrupt_where_no_kernel_can_be_built_and_that_is_said(monkeypatch):
    said = []
    genesis = GenesisCorruption(GenesisSettings())
    monkeypatch.setattr("runtime.triton.available", lambda: True)
    say_why_not(genesis, said.append)
    assert not workers_corrupt(genesis, 0)
    assert said == []
    monkeypatch.setattr("runtime.triton.available", lambda: False)
    say_why_not(genesis, said.append)
    assert workers_corrupt(genesis, 0)
    assert len(said) == 1
    assert "corrupted on the CPU, by the workers: Triton cannot build its kernels" in said[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_pairs_of_the_cpu(folder):
    path, plan, cases, _ = folder
    patches, settings = CasePatches(path, cases, 2), GenesisCorruption(GenesisSettings(shuffle_windows=100))
    (cpu,) = batches(restoration_loader(patches, plan, loading(), settings, steps=1))
    (gpu,) = batches(restoration_loader(patches, plan, loading(), settings, steps=1, device_id=0))
    assert gpu["image"].device.type == "cuda"
    torch.testing.assert_close(gpu["image"].cpu(), cpu["image"], atol=1e-5, rtol=0)
    torch.testing.assert_close(gpu["target"].cpu(), cpu["target"], atol=1e-6, rtol=0)
