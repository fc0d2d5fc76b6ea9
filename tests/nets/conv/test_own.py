"""Which convolutions are our own, and when; a network computes the same with them, on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nets.blocks import ConvNormAct
from nets.build import build_network
from nets.conv import choice, own
from nets.dynamic_unet import NetworkSettings
from tests.conftest import make_plan

LAST = torch.channels_last_3d
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors on a device that is not there, where Triton builds."""
    monkeypatch.setattr(own, "_triton_builds", lambda: True)
    with FakeTensorMode():
        yield


def conv(channels: int = 32, outputs: int = 32, kernel: int = 3, layout: Any = LAST, **changes: Any) -> nn.Conv3d:
    made = nn.Conv3d(channels, outputs, kernel, **{"padding": kernel // 2, "bias": False, "device": "meta"} | changes)
    made.weight = nn.Parameter(torch.zeros(made.weight.shape, device="cuda").to(memory_format=layout))
    return made


def image(channels: int = 32, dtype: torch.dtype = torch.bfloat16, sides: tuple[int, ...] = (6, 8, 10)) -> Tensor:
    return torch.empty((2, channels, *sides), device="cuda", dtype=dtype).to(memory_format=LAST)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 32, 64])
def test_it_takes_the_convolutions_of_full_resolution(
    channels: int, pretended: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own.fits(conv(channels), image(channels))
    assert own.fits(conv(channels), image(channels, torch.float16))
    assert not own.fits(conv(channels), image(channels, torch.float32))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    assert own.fits(conv(channels), image(channels, torch.float32))
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.float32)
    assert not own.fits(conv(channels), image(channels))


def test_others_are_left_to_pytorch(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x = image()
    left = [
        conv(kernel=1),
        conv(stride=2),
        conv(dilation=2, padding=2),
        conv(padding=0),
        conv(groups=2),
        conv(bias=True),
        conv(padding_mode="reflect"),
        conv(outputs=64),
        conv(layout=torch.contiguous_format),
        nn.ConvTranspose3d(32, 32, 3, padding=1, bias=False, device="meta"),
    ]
    assert own.fits(conv(), x)
    assert not any(own.fits(module, x) for module in left)
    assert not own.fits(conv(16), image(16))
    assert not own.fits(conv(), torch.empty(2, 32, 6, 8, 10, device="cuda", dtype=torch.bfloat16))
    assert not own.fits(conv(), image(dtype=torch.float64))
    assert not own.fits(conv(), image(sides=(1, 4096, 4096)))  # a plane of 2**24 positions
    assert not own.fits(conv(1), image(1, sides=(128, 2048, 1024)))  # 2**28 voxels
    assert not own.fits(conv(), image(sides=(0, 8, 10)))
    assert not own.fits(conv(), torch.empty(2, 32, 6, 8, 10, dtype=torch.bfloat16).to(memory_format=LAST))
    monkeypatch.setattr(own, "_triton_builds", lambda: False)
    assert not own.fits(conv(), x)


def test_an_image_of_one_channel_follows_the_weights(pretended: None) -> None:
    """It is contiguous and channels-last at once."""
    x = torch.empty(2, 1, 6, 8, 10, device="cuda", dtype=torch.bfloat16)
    assert own.fits(conv(1), x)
    assert not own.fits(conv(1, layout=torch.contiguous_format), x)


def test_when_it_is_used(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured once for each kind with auto, and not at all while a graph is recorded."""
    asked = []

    def decide(work: choice.Work, *steps: choice.Step) -> bool:
        asked.append(work)
        choice._kept[work] = len(asked) == 1
        return choice._kept[work]

    monkeypatch.setattr(choice, "_kept", {})
    monkeypatch.setattr(choice, "decide", decide)
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    x, module = image(), conv()
    assert not own.takes(module, x, "never")
    assert own.takes(module, x, "always")
    assert not own.takes(module, x, "auto") and not asked
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert own.takes(module, x, "auto") and own.takes(module, x, "auto") and len(asked) == 1
    assert asked[0] == choice.Work((2, 32, 6, 8, 10), 32, torch.bfloat16, 0, (False, True))
    with torch.no_grad():
        assert not own.takes(module, x, "auto")
    assert asked[1].gradients == (False, False)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert own.takes(module, x, "auto")  # what is known
    assert not own.takes(module, image(64), "auto") and len(asked) == 2


def test_a_measured_step_computes_what_training_wants() -> None:
    x, weight = torch.randn(1, 1, 3, 4, 5), torch.randn(32, 1, 3, 3, 3)
    seen: list[tuple[bool, ...]] = []

    def way(x: Tensor, weight: Tensor) -> Tensor:
        seen.append((x.requires_grad, weight.requires_grad, torch.is_grad_enabled()))
        return own._library(x, weight)

    for wanted in ((False, True), (True, True), (False, False)):
        with torch.no_grad():
            own._step(way, x, weight, wanted)
    assert seen == [(False, True, True), (True, True, True), (False, False, False)]


def test_networks_have_it_where_it_is_asked_for() -> None:
    def blocks(**given: Any) -> list[ConvNormAct]:
        net = build_network(make_plan((32, 32, 32)), NetworkSettings(depth=2, **given))
        return [module for module in net.modules() if isinstance(module, ConvNormAct)]

    assert {block.own_conv for block in blocks()} == {"never"}
    assert {block.own_conv for block in blocks(own_conv="auto")} == {"auto"}
    assert {block.own_conv for block in blocks(own_conv="always", encoder="resnet10")} == {"always"}


def test_a_block_hands_its_moments_to_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the norm takes them; another norm is not made to."""
    seen: list[bool] = []

    def convolve(x: Tensor, weight: Tensor, *, statistics: bool) -> tuple[Tensor, None]:
        seen.append(statistics)
        return own._library(x, weight), None

    monkeypatch.setattr(own, "takes", lambda conv, x, when: when == "always")
    monkeypatch.setattr(own, "convolve", convolve)
    x = torch.randn(1, 4, 3, 4, 5)
    for norm in ("instance", "batch"):
        block = ConvNormAct(4, 8, (3, 3, 3), norm=norm)
        plain = block(x)
        block.own_conv = "always"
        assert torch.equal(block(x), plain)
    assert seen == [True, False]


def grown(when: own.When, dtype: torch.dtype, compiled: bool) -> tuple[Tensor, Tensor]:
    """Loss and all gradients of a step of the network."""
    torch.manual_seed(0)
    plan = make_plan((32, 64, 64), channels=1)
    net = build_network(plan, NetworkSettings(depth=2, layout="NDHWC", own_conv=when)).cuda()
    x = torch.randn(2, 1, 32, 64, 64, generator=torch.Generator().manual_seed(1)).cuda()
    forward: Callable[[Tensor], Any] = torch.compile(net, dynamic=False) if compiled else net
    with torch.autocast("cuda", dtype):
        loss = forward(x)[0].float().square().sum() / 128  # gradients in the middle of what float16 has
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_learns_the_same_on_a_device(dtype: torch.dtype, compiled: bool) -> None:
    for a, b in zip(grown("always", dtype, compiled), grown("never", dtype, False), strict=True):
        assert a.isfinite().all()
        assert float((a - b).norm()) < 0.05 * float(b.norm())


@pytest.mark.gpu
@GPU
def test_a_device_chooses_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(choice, "_kept", {})
    module = conv()
    x = image(sides=(64, 64, 64)).normal_()
    taken = [own.takes(module, x, "auto") for _ in range(2)]
    assert taken[0] == taken[1]
    assert list(choice._kept.values()) == taken[:1]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].endswith(": own" if taken[0] else ": cuDNN")
    assert "fails" not in said[0]
