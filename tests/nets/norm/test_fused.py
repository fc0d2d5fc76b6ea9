"""The fused instance norm and LeakyReLU equal PyTorch's, in value and gradient, at every layout it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nets.norm import fused as fused_norm
from nets.norm.fused import CHANNELS_LAST, fits, instance_norm_act

SHAPES = [(3, 7, 12, 16, 20), (1, 16, 5, 6, 7), (2, 300, 3, 4, 5), (2, 5, 12, 16)]


def plain(x: Tensor, weight: Tensor, bias: Tensor, slope: float | None) -> Tensor:
    """In double precision."""
    y = F.instance_norm(x.double(), None, None, weight.double(), bias.double(), eps=1e-5)
    return y if slope is None else F.leaky_relu(y, slope)


def made(shape: tuple[int, ...], dtype: torch.dtype, mean: float = 4.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(shape, generator=generator) + mean).to(dtype).to(memory_format=CHANNELS_LAST[len(shape)])
    weight, bias = torch.randn(2, shape[1], generator=generator)
    weight[0] = 0  # a scale that training can reach
    return [tensor.requires_grad_() for tensor in (x, weight.clone(), bias.clone())]


@pytest.mark.parametrize("slope", [0.01, 0.0, None])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_pytorch(shape: tuple[int, ...], slope: float | None) -> None:
    ours, theirs = made(shape, torch.float32), made(shape, torch.float32)
    assert fits(ours[0])
    y = instance_norm_act(*ours, eps=1e-5, negative_slope=slope)
    expected = plain(*theirs, slope)
    assert y.is_contiguous(memory_format=CHANNELS_LAST[len(shape)])
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=1e-5)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(gradient)
    expected.backward(gradient.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-4, rtol=1e-4)


def test_bfloat16_is_rounded_once() -> None:
    ours, theirs = made(SHAPES[0], torch.bfloat16), made(SHAPES[0], torch.bfloat16)
    y, expected = instance_norm_act(*ours, eps=1e-5, negative_slope=0.01), plain(*theirs, 0.01)
    assert y.dtype == torch.bfloat16
    error = (y.detach().double() - expected.detach()).abs() / (expected.detach().abs() + 1e-3)
    assert float(error.max()) < 2**-8
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    y.backward(gradient)
    expected.backward(gradient.double())
    scale = float(theirs[0].grad.float().abs().max())
    assert float((ours[0].grad.float() - theirs[0].grad.float()).abs().max()) < 2**-7 * scale
    torch.testing.assert_close(ours[1].grad, theirs[1].grad, atol=1e-3, rtol=1e-4)


def test_without_weight_and_bias_they_are_1_and_0() -> None:
    x, _, _ = made(SHAPES[0], torch.float32)
    results = []
    for parameters in ((None, None), (torch.ones(7), torch.zeros(7))):
        y = instance_norm_act(x, *parameters, eps=1e-5, negative_slope=0.01)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_keeps_torch_compiles_rules(dtype: torch.dtype) -> None:
    """Schema, shapes and layouts foretold, gradient, and what a traced graph computes."""
    inputs = made(SHAPES[3], dtype)
    torch.library.opcheck(fused_norm._operator, (*inputs, 1e-5, 0.01))

    def traced(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=0.01)

    compiled = torch.compile(traced, backend="aot_eager", fullgraph=True, dynamic=False)
    results = [[y, *torch.autograd.grad(y.square().sum(), inputs)] for y in (traced(*inputs), compiled(*inputs))]
    torch.compiler.reset()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()


def test_a_large_mean_costs_no_digits() -> None:
    x, weight, bias = made(SHAPES[0], torch.float32, mean=3000.0)
    y = instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=None)
    assert float((y.double() - plain(x, weight, bias, None)).detach().abs().max()) < 2e-3  # 3000 has 2e-4 in float32


def test_what_is_not_a_number_stays_none() -> None:
    x, weight, bias = made(SHAPES[0], torch.bfloat16)
    with torch.no_grad():
        x[1, 2, 3, 4, 5] = float("nan")
    y = instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=0.01)
    assert bool(y[1, 2].isnan().all())
    assert not bool(y[0].isnan().any())


def test_threads_do_not_change_the_result() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x, weight, bias = made(SHAPES[0], torch.float32)
            y = instance_norm_act(x, weight, bias, eps=1e-5, negative_slope=0.01)
            y.sum().backward()
            results.append((y.detach(), x.grad, weight.grad))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_other_tensors_are_left_to_pytorch() -> None:
    assert not fits(torch.zeros(2, 4, 6, 8, 10))  # not channels-last
    assert not fits(torch.zeros(2, 4, 6, 8, 10, dtype=torch.float64).to(memory_format=torch.channels_last_3d))
    assert not fits(torch.zeros(2, 4, 6, 8, 10, device="meta").to(memory_format=torch.channels_last_3d))


def test_torch_compile_asks_once_whether_triton_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(fused_norm.triton, "available", lambda: not asked.append(1))  # type: ignore[func-returns-value]

    def traced(x: Tensor) -> Tensor:
        return x + 1 if fused_norm._triton_builds() else x

    compiled = torch.compile(traced, backend="eager", fullgraph=True)
    assert float(compiled(torch.ones(()))) == float(compiled(torch.ones(()))) == 2.0
    torch.compiler.reset()
    assert len(asked) == 1
