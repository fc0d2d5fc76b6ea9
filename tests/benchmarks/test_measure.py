"""What is measured by default, and settings that cannot be used."""

import pytest

from benchmarks.measure import MeasureSettings
from benchmarks.works import preprocessed
from cases.case import list_cases, open_array, read_info
from cases.settings import SettingsError


def test_nothing_left_to_measure_is_refused() -> None:
    with pytest.raises(SettingsError, match="5 batches leave nothing to measure after --warmup 5"):
        MeasureSettings(mode="genesis", train_batches=5, warmup=5)


def test_parts_that_there_are_not_are_named() -> None:
    with pytest.raises(SettingsError, match="--parts genesis lunch names lunch, which is none of loader"):
        MeasureSettings(mode="check", parts=("genesis", "lunch"))


def test_a_gpu_measures_what_the_goals_name_and_a_cpu_less() -> None:
    gpu, cpu = MeasureSettings(gpus=1).settled, MeasureSettings(gpus=0).settled
    assert (gpu.patch_size, gpu.channels, gpu.classes, gpu.amp) == ((128, 128, 128), 4, 4, True)
    assert (gpu.dim, gpu.batch_size) == (3, 2)
    assert (cpu.patch_size, cpu.channels, cpu.classes, cpu.amp) == ((64, 64, 64), 1, 3, False)
    assert (gpu.works.channels, gpu.works.classes, gpu.works.amp, gpu.works.device_id) == (4, 4, True, 0)


def test_sizes_that_are_given_stay() -> None:
    given = MeasureSettings(gpus=1, patch_size=(16, 24, 32), classes=2, amp=False)
    settled = given.settled
    assert (settled.patch_size, settled.classes, settled.amp) == ((16, 24, 32), 2, False)
    assert (settled.channels, settled.volume) == (4, (138, 169, 138))


def test_made_up_scans_have_the_channels_and_classes_of_their_plan() -> None:
    sizes = {"volume": (20, 24, 28), "patch_size": (8, 12, 16), "channels": 4, "classes": 4}
    with preprocessed(MeasureSettings(gpus=0, **sizes).works) as (folder, plan):
        case = list_cases(folder)[0]
        assert open_array(folder, case, "x").shape == (4, 20, 24, 28)
        assert set(open_array(folder, case, "y").ravel()) == {0, 1, 2, 3}
        assert len(read_info(folder, case).intensity) == plan.in_channels == 4
        assert plan.n_class == 4
