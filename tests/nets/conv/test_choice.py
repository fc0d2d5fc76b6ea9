"""The faster of two ways is taken, kept and told once; the clock is made up, but for the test on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from nets.conv import choice
from nets.conv.choice import Work

WORK = Work((2, 32, 128, 128, 64), 32, torch.bfloat16, 0, (True, True))


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_kept", {})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], list[int]]:
    """Times that a measurement will find; the list counts measurements."""

    def set_to(own: float, library: float) -> list[int]:
        calls: list[int] = []

        def milliseconds(steps: Sequence[choice.Step]) -> list[float]:
            calls.append(len(steps))
            for step in steps:
                step()
            return [own, library]

        monkeypatch.setattr(choice, "milliseconds", milliseconds)
        return calls

    return set_to


@pytest.mark.parametrize(
    ("own", "library", "wins"), [(1.9, 3.1, True), (3.1, 1.9, False), (1.99, 2.0, False), (2.0, 2.0, False)]
)
def test_the_faster_one_is_taken_and_told(
    own: float,
    library: float,
    wins: bool,
    clock: Callable[[float, float], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("triton")
    clock(own, library)
    assert choice.known(WORK) is None
    assert choice.decide(WORK, lambda: None, lambda: None) is wins
    assert choice.known(WORK) is wins
    assert capsys.readouterr().out == (
        "3x3x3 convolution 32->32 at 2 x 128x128x64, forward and backward: "
        f"own kernel {own:.2f} ms, cuDNN {library:.2f} ms: {'own' if wins else 'cuDNN'}\n"
    )


def test_kinds_are_measured_apart() -> None:
    forward = Work(WORK.shape, 32, torch.bfloat16, 0, (False, False))
    choice._kept[WORK] = True
    assert choice.known(forward) is None
    assert str(forward).endswith("at 2 x 128x128x64, forward")
    assert choice.known(Work(WORK.shape, 32, torch.float16, 0, (True, True))) is None


def test_a_kernel_that_does_not_build_is_left(
    clock: Callable[[float, float], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    triton = pytest.importorskip("triton")
    clock(1.0, 2.0)

    def fails() -> None:
        raise triton.TritonError("some lines\nout of shared memory")

    assert choice.decide(WORK, fails, lambda: None) is False
    assert choice.known(WORK) is False
    assert capsys.readouterr().out.endswith("own kernel fails (out of shared memory): cuDNN\n")


def test_other_ranks_say_nothing(
    clock: Callable[[float, float], list[int]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    clock(1.0, 2.0)
    monkeypatch.setattr(choice, "global_rank", lambda: 1)
    assert choice.decide(WORK, lambda: None, lambda: None)
    assert capsys.readouterr().out == ""


def test_turns_are_taken_and_the_middle_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warm-up first, for both; then one after the other, and one slow turn changes nothing."""
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: order.append("wait"))

    class Moment:
        def __init__(self, at: float) -> None:
            self.at = at

        def elapsed_time(self, end: Moment) -> float:
            return end.at - self.at

    def timed(step: choice.Step) -> tuple[Moment, Moment]:
        step()
        slow = 50.0 if len(order) == 2 * choice.WARM_UP + 3 else 0.0
        return Moment(0.0), Moment(slow + (1.0 if order[-1] == "own" else 2.0))

    monkeypatch.setattr(choice, "_timed", timed)
    steps = [lambda: order.append("own"), lambda: order.append("library")]
    assert choice.milliseconds(steps) == [1.0, 2.0]
    warm_up = ["own"] * choice.WARM_UP + ["library"] * choice.WARM_UP
    assert order == warm_up + ["own", "library"] * choice.REPEATS + ["wait"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_tells_which_takes_longer() -> None:
    x = torch.randn(2048, 2048, device="cuda")
    once, often = choice.milliseconds((lambda: x @ x, lambda: [x @ x for _ in range(20)]))
    assert 0 < once < often
