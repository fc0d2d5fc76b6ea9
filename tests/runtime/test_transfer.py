"""Copies between host and GPU: right however late the GPU does them, and waited for by helping threads alone."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime import transfer
from runtime.transfer import Landing, send, side_stream, upload, with_index
from tests.late_copies import late_copies
from tests.pretended_gpu import pretended_gpu


@pytest.mark.parametrize(("stored", "there"), [("float16", "float16"), ("uint8", "uint8"), ("float64", "float32")])
def test_a_volume_arrives_whole_in_its_own_type(
    stored: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE", 7 * 16 * 20)  # some planes, not a divisor of 12
    values = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 20)).astype(stored)
    np.save(tmp_path / "x.npy", values)
    with late_copies() as gpu:
        volume = upload(np.load(tmp_path / "x.npy", mmap_mode="r"), gpu.device)
        gpu.main.finish()
    assert volume.dtype == getattr(torch, there)
    assert np.array_equal(volume.numpy(), values)
    assert gpu.shared == [(volume, gpu.main)]


def test_landings_arrive_in_their_places_and_only_their_thread_waits() -> None:
    target, tensors = np.zeros((6, 16, 20), np.float16), torch.rand(6, 16, 20, dtype=torch.float16)
    with late_copies() as gpu:
        landing = Landing()
        for plane in range(6):
            made = torch.zeros(16, 20, dtype=torch.float16)
            gpu.main.add(lambda made=made, plane=plane: made.add_(tensors[plane]))  # the computation is late too
            landing._take_off(target[plane], made)
        landing.wait()
        assert threading.current_thread().name not in gpu.waiting
    assert np.array_equal(target, tensors.numpy())
    assert [stream for _, stream in gpu.shared] == [gpu.shared[0][1]] * 6


def test_landings_take_no_more_memory_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "IN_FLIGHT", 3 * 80)
    under_way = []
    with late_copies():
        landing = Landing()
        for _ in range(10):
            landing._take_off(np.zeros(20, np.float32), torch.zeros(20))
            under_way.append(sum(size for size, _ in landing._flights))
        landing.wait()
    assert max(under_way) == 3 * 80


def test_a_landing_that_fails_is_told() -> None:
    with late_copies():
        landing = Landing()
        landing._take_off(np.zeros(3, np.float32), torch.zeros(20))
        with pytest.raises(ValueError, match="broadcast"):
            landing.wait()


def test_tensors_of_the_host_land_at_once() -> None:
    target, landing = np.zeros((3, 4), np.uint8), Landing()
    landing.put(target[1:], torch.ones(2, 4, dtype=torch.uint8))
    assert target.tolist() == [[0] * 4, [1] * 4, [1] * 4]
    landing.wait()


def test_nothing_small_waits_for_the_gpu() -> None:
    with pretended_gpu() as gpu, gpu.busy():
        sent = send(torch.arange(5), torch.device("cuda", 0))
        assert sent.is_cuda
        assert send(sent, sent.device) is sent
    assert gpu.copied == [(40, "cpu", "cuda")]
    here = torch.arange(5)
    assert send(here, torch.device("cpu")) is here


def test_a_device_gets_the_number_that_threads_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert with_index("cuda") == torch.device("cuda", 3)
    assert with_index("cuda:1") == torch.device("cuda", 1)
    assert with_index("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_volume_goes_to_the_gpu_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE", 2**20)
    device = with_index("cuda")
    array = np.random.default_rng(0).random((2, 60, 128, 128), np.float32).astype(np.float16)
    busy = torch.zeros(2**26, device=device)
    for _ in range(20):
        busy += 1  # a computation that copies must neither wait for nor get into the way of
    volume = upload(array, device)
    assert volume.dtype == torch.float16
    target, landing = np.zeros((4, *array.shape), np.float16), Landing()
    for row in range(4):
        landing.put(target[row], volume * 2 + row)
    landing.wait()
    expected = [(torch.from_numpy(array) * 2 + row).numpy() for row in range(4)]
    assert np.array_equal(target, np.stack(expected))
    assert side_stream(device, "to") is not side_stream(device, "from")
