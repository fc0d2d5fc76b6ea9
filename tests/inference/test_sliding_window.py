import itertools
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from cases.regions import brats_regions
from inference import feeding
from inference.restore import launch_restore
from inference.sliding_window import SlidingWindow, WindowError, WindowSettings, importance
from inference.tta import TTASettings, flip_average, probabilities
from tests.conftest import make_plan
from tests.inference.test_restore import info_of
from tests.late_copies import late_copies
from tests.pretended_gpu import pretended_gpu


def ramp(windows: torch.Tensor) -> torch.Tensor:
    """Two classes whose scores depend on the place within the window, so that blending shows."""
    weights = torch.linspace(0, 1, windows.shape[-1])
    return torch.cat([windows * 2 + weights, windows.roll(1, -1) * weights], dim=1)


def volume(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(12, 16, 20), (30, 16, 20), (5, 40, 9), (5, 6, 7)])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
@pytest.mark.parametrize(("overlap", "batch_size"), itertools.product((0.0, 0.5, 0.7), (1, 3, 7)))
def test_scores_equal_monai(shape, blend, overlap, batch_size):
    image, patch = volume(shape), (8, 8, 12)
    windows = SlidingWindow(patch_size=patch, overlap=overlap, blend=blend, batch_size=batch_size)
    expected = sliding_window_inference(image[None], patch, 4, ramp, overlap=overlap, mode=blend)[0]
    assert (windows.scores(image.numpy(), ramp) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_2d_network_sees_every_slice(batch_size):
    image = volume((12, 16, 20))
    slices = [image[None, :, d] for d in range(12)]
    expected = [sliding_window_inference(x, (8, 12), 4, ramp, overlap=0.5, mode="gaussian")[0] for x in slices]
    windows = SlidingWindow(patch_size=(8, 12), batch_size=batch_size)
    assert (windows.scores(image, ramp) - torch.stack(expected, dim=1)).abs().max() < 1e-5


def test_slabs_follow_each_other_along_the_longest_axis():
    slabs = [(s.axis, s.start, s.stop) for s in SlidingWindow(patch_size=(8, 8, 8)).stream(volume((12, 16, 20)), ramp)]
    assert slabs == [(2, 0, 4), (2, 4, 8), (2, 8, 12), (2, 12, 20)]


def test_scores_take_one_slab_and_not_the_volume(monkeypatch):
    """Elements of every tensor made while streaming: at most two slabs of sums and weights, and a batch."""
    made = []
    for name in ("zeros", "empty"):
        real = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, real=real, **k: made.append(out := real(*a, **k)) or out)
    new_zeros = torch.Tensor.new_zeros
    monkeypatch.setattr(torch.Tensor, "new_zeros", lambda *a, **k: made.append(out := new_zeros(*a, **k)) or out)

    classes, long = 16, 400
    image = np.zeros((1, 16, long, 16), np.float32)
    windows = SlidingWindow(patch_size=(16, 8, 16), batch_size=1)
    largest_slab = 0
    for slab in windows.stream(image, lambda x: x.expand(-1, classes, -1, -1, -1)):
        largest_slab = max(largest_slab, slab.scores_cdhw.numel())
    buffers = max(tensor.untyped_storage().nbytes() // 4 for tensor in made)
    assert buffers == classes * 16 * 8 * 16  # one window deep, where the volume is 50
    assert largest_slab <= buffers


def test_only_windows_are_read_from_a_memory_map(tmp_path):
    image = volume((12, 16, 20)).numpy().astype(np.float16)
    np.save(tmp_path / "x.npy", image)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    windows = SlidingWindow(patch_size=(8, 8, 8))
    assert torch.equal(windows.scores(mapped, ramp), windows.scores(image, ramp))


def test_importance_is_least_in_the_corner():
    weight = importance((9, 9, 9), "gaussian")
    assert weight[4, 4, 4] == 1
    assert weight[0, 0, 0] == pytest.approx(1e-3)


def test_faults_come_together():
    with pytest.raises(WindowError, match=r"patch size \(0, 4\).*overlap 1.*batch size 0"):
        SlidingWindow(patch_size=(0, 4), overlap=1.0, batch_size=0)


def test_a_network_that_changes_the_sides_is_named():
    with pytest.raises(WindowError, match=r"windows of \(8, 8, 8\) came back from the network as \(4, 4, 4\)"):
        SlidingWindow(patch_size=(8, 8, 8)).scores(volume((12, 16, 20)), lambda x: x[..., ::2, ::2, ::2])


@pytest.mark.parametrize("shape", [(12, 16, 20), (30, 16, 20), (5, 40, 9), (5, 6, 7)])
@pytest.mark.parametrize(("patch", "batch_size"), itertools.product([(8, 8, 12), (8, 12)], (1, 4, 5)))
@pytest.mark.parametrize("free_bytes", [0, 2**40])
def test_both_ways_of_a_gpu_give_the_cpus_scores(shape, patch, batch_size, free_bytes):
    """Batches reach across layers there; windows come from the host a batch ahead, or from the volume on the GPU."""
    image = volume(shape).numpy()
    windows = SlidingWindow(patch_size=patch, batch_size=batch_size)
    expected, sizes = windows.scores(image, ramp), []

    def predictor(x):
        sizes.append(len(x))
        return ramp(x)

    with late_copies(eager=True) as gpu:
        gpu.free_bytes = free_bytes
        assert torch.equal(windows.scores(image, predictor, device=gpu.device), expected)
    assert len(set(sizes)) == 1  # cuDNN tries its algorithms once


@pytest.mark.parametrize("exclusive", [True, False])
def test_nothing_between_a_scan_and_its_labels_waits_for_the_gpu(exclusive, monkeypatch):
    """Windows, flips, network, blend, resizing and decision; the labels' way back is pinned and not waited for."""
    monkeypatch.setattr("runtime.transfer._unload", lambda *_: None)  # in a thread that knows no pretended GPU
    for name in ("Stream", "Event", "stream", "current_stream"):
        monkeypatch.setattr(f"torch.cuda.{name}", MagicMock())
    regions = None if exclusive else brats_regions(("background", "edema", "core", "enhancing"))
    info = info_of((24, 20, 17), (21, 16, 20), before=(0, 1, 0))
    with pretended_gpu() as gpu:
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
        network = gpu.moved(torch.nn.Conv3d(1, 3, 3, padding=1))
        image = torch.empty(1, *info.shape_stored, device="cuda", dtype=torch.float16)
        predictor = flip_average(probabilities(network, exclusive=exclusive), (0, 2))
        with gpu.busy(), torch.autocast("cuda", torch.bfloat16):
            slabs = SlidingWindow(patch_size=(8, 8, 12)).stream(image, predictor, device="cuda")
            launch_restore(slabs, info, regions=regions, keep_probabilities=True)
    back = sum(size for size, start, _ in gpu.copied if start == "cuda")
    assert back == (1 + 3 * 2) * 24 * 20 * 17  # labels, and probabilities in half precision


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_scores_on_the_gpu_equal_the_cpus(share, monkeypatch):
    monkeypatch.setattr(feeding, "SHARE", share)  # of nothing: windows come from the host
    windows = SlidingWindow(patch_size=(8, 8, 12))

    def predictor(x):
        return torch.cat([x * 2, x.roll(1, -1)], dim=1)

    image = volume((12, 16, 20)).numpy()
    on_device = windows.scores(image, predictor, device="cuda")
    assert on_device.device.type == "cuda"
    assert (on_device.cpu() - windows.scores(image, predictor)).abs().max() < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_gpu_holds_the_scan_one_slab_and_two_batches(share, monkeypatch):
    """The peak, and that nothing waits: PyTorch itself raises where it does."""
    monkeypatch.setattr(feeding, "SHARE", share)
    classes, patch, batch_size = 8, (32, 32, 32), 4
    image = np.zeros((1, 64, 400, 64), np.float16)
    windows = SlidingWindow(patch_size=patch, batch_size=batch_size)
    weight = torch.ones(classes, 1, 1, 1, 1, device="cuda")

    def predictor(x):
        return torch.nn.functional.conv3d(x, weight)

    def run():
        for slab in windows.stream(image, predictor, device="cuda"):
            slab.scores_cdhw.argmax(dim=0)

    run()  # libraries load what they load
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    slab = (classes + 1) * 64 * 32 * 64 * 4
    batch = batch_size * 32**3 * 4
    scan = image.nbytes if share else 0
    labels = 2 * 8 * 64 * 32 * 64  # of argmax, while the next slab is begun
    promise = scan + slab + (2 + 2 * classes) * batch + labels
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * promise + 2**24  # and a convolution's workspace


def test_softmax_is_applied_once_before_blending():
    logits = SlidingWindow(patch_size=(8, 8, 8)).scores(volume((12, 16, 20)), probabilities(ramp, exclusive=True))
    assert (logits.sum(dim=0) - 1).abs().max() < 1e-5


def test_flips_see_each_window_once_a_combination():
    calls = []

    def counted(x):
        calls.append(x)
        return ramp(x)

    image = volume((8, 8, 8))[None]
    mean = flip_average(counted, (0, 2))(image)
    expected = sum(ramp(image.flip(f)).flip(f) for f in ([], [2], [4], [2, 4])) / 4
    assert len(calls) == 4
    assert (mean - expected).abs().max() < 1e-6


def test_gradients_are_off_in_the_network_and_untouched_outside():
    states = []

    def predictor(x):
        states.append(torch.is_grad_enabled())
        return x

    for _ in SlidingWindow(patch_size=(8, 8, 8)).stream(volume((12, 16, 20)), predictor):
        assert torch.is_grad_enabled()
    assert not any(states)


def test_windows_of_a_plan_take_the_settings():
    windows = SlidingWindow.of(make_plan((8, 12, 16)), WindowSettings(val_batch_size=3, overlap=0.25, blend="constant"))
    assert windows == SlidingWindow(patch_size=(8, 12, 16), overlap=0.25, blend="constant", batch_size=3)
    with pytest.raises(WindowError, match=r"--val_batch_size 0 is not above 0; --overlap 1.0 is not in \[0, 1\)"):
        WindowSettings(val_batch_size=0, overlap=1.0)


def test_flips_are_those_of_training_unless_others_are_named():
    plan = make_plan((8, 12, 16), mirror_axes=(0, 2))
    assert TTASettings().flips(plan) == ()
    assert TTASettings(tta_axes=(1,)).flips(plan) == ()
    assert TTASettings(tta=True).flips(plan) == (0, 2)
    assert TTASettings(tta=True, tta_axes=(1,)).flips(plan) == (1,)
