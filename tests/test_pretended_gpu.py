"""What would wait for a GPU is found on a machine without one, and what would not is let through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.pretended_gpu import PretendedGPU, Waits, pretended_gpu

WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copied to the host": lambda x: torch.empty(x.shape).copy_(x),
    "copied to pageable memory": lambda x: torch.empty(x.shape).copy_(x, non_blocking=True),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked": lambda x: x[x > 0],
    "set where a mask says": lambda x: x.__setitem__(x > 0, x[0]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()[:, 0], 0),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device="cuda"),
    "a tensor like it": lambda x: x.new_tensor(2.0),
    "index by a list": lambda x: x[:, [0, 1]],
    "pageable": lambda x: torch.zeros(3).to("cuda", non_blocking=True),
    "blocking": lambda x: torch.zeros(3).pin_memory().to(x.device),
    "copied from the host": lambda x: x.copy_(torch.zeros(x.shape)),
    "synchronize": lambda x: torch.cuda.synchronize(),
}
PASSING: dict[str, Callable[[Tensor], Any]] = {
    "numbers made there": lambda x: torch.arange(3, device="cuda") + torch.full((3,), 2.0, device=x.device),
    "random numbers": lambda x: F.dropout(torch.rand_like(x)),
    "a number as an argument": lambda x: x * 2.0 + torch.tensor(1.0),
    "set to a number": lambda x: x.__setitem__((slice(None), 0), 1.0),
    "filled where a mask says": lambda x: x.__setitem__(x > 0, 1.0),
    "index by a tensor": lambda x: x[:, torch.arange(2, device=x.device)],
    "sorted": lambda x: x.sort(0).values,
    "pinned": lambda x: torch.zeros(3).pin_memory()[:2].to("cuda", non_blocking=True),
    "pinned from the start": lambda x: x.copy_(torch.empty(x.shape, pin_memory=True), non_blocking=True),
    "fetched later": lambda x: x.to("cpu", non_blocking=True),
    "moved there before": lambda x: x.to("cuda"),
    "the host's own": lambda x: torch.zeros(2).sum().item(),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_an_error_while_the_device_is_busy(name: str) -> None:
    with pretended_gpu() as gpu:
        x = torch.empty(4, 6, device="cuda")
        with gpu.busy(), pytest.raises(Waits):
            WAITING[name](x)


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_wait_passes(name: str) -> None:
    with pretended_gpu() as gpu, gpu.busy():
        PASSING[name](torch.empty(4, 6, device="cuda"))


def step(gpu: PretendedGPU, optimizer: str, dtype: torch.dtype) -> nn.Module:
    layers = [nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.BatchNorm3d(4), nn.LeakyReLU()]
    network = gpu.moved(nn.Sequential(*layers, nn.ConvTranspose3d(4, 3, 2, 2)))
    parameters = list(network.parameters())
    made = {"adam": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer](parameters, lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    for _ in range(2):
        with torch.autocast("cuda", dtype):
            scores = network(torch.empty(2, 1, 8, 8, 8, device="cuda"))
            assert scores.dtype == dtype
            assert scores.is_cuda
            loss = F.cross_entropy(scores, torch.empty(2, *scores.shape[2:], device="cuda", dtype=torch.long))
        made.zero_grad()
        scaler.scale(loss).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(made)
        scaler.update()
    return network


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_plain_training_step_never_waits(optimizer: str, dtype: torch.dtype) -> None:
    with pretended_gpu() as gpu, gpu.busy():
        network = step(gpu, optimizer, dtype)
        for parameter in network.parameters():
            assert parameter.grad is not None
            assert parameter.grad.device == parameter.device == torch.device("cuda", 0)
    assert "aten.convolution_backward" in gpu.calls
    assert not gpu.copied


def test_where_waiting_is_allowed_numbers_are_1_and_copies_lie_on_the_host() -> None:
    with pretended_gpu() as gpu:
        x = torch.empty(4, 6, device="cuda")
        assert x.sum().item() == float(x.max()) == 1.0
        assert x.cpu().numpy().sum() == 24.0
        with pytest.raises(TypeError, match="copy it to the host"):
            x.numpy()
        torch.cuda.synchronize()
    assert not gpu.calls


def test_the_machine_is_as_before_afterwards() -> None:
    with pretended_gpu():
        torch.empty(3, device="cuda")
    assert not torch.cuda.is_available()
    x = torch.ones(3, requires_grad=True)
    (2 * x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(AssertionError, match="not compiled with CUDA"):
        torch.empty(3, device="cuda")
