"""Networks that are built channels-last compute channels-last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from nets.build import build_classifier, build_network, build_two_headed
from nets.norm import fused
from pretraining.autoencoder.network import build_autoencoder
from tests.nets.made_plans import choice, make_plan
from tests.pretended_gpu import pretended_gpu

PLAN = make_plan((16, 32, 32))
SMALL: dict[str, Any] = {"depth": 2, "filters": [4, 8, 8]}
ENCODERS: dict[str, dict[str, Any]] = {
    "unet": SMALL,
    "residual": SMALL | {"res_block": True, "norm": "batch"},
    "genesis": {"encoder": "genesis"},
    "resnet10": {"encoder": "resnet10"},
    "resnet18, shortcut A": {"encoder": "resnet18", "shortcut": "A"},
    "medicalnet": {"encoder": "resnet10", "conv_seg": True},
}
KINDS: dict[str, Callable[[Any], nn.Module]] = {
    "segmentation": lambda made: build_network(PLAN, made),
    "classification": lambda made: build_classifier(PLAN, made, 3),
    "two heads": lambda made: build_two_headed(PLAN, made, 5),
    "autoencoder": lambda made: build_autoencoder(PLAN, made),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_no_convolution_is_contiguous(monkeypatch: pytest.MonkeyPatch, encoder: str, kind: str) -> None:
    """By PyTorch's own rule: channels-last is what has input or weights so. 1x1x1 kernels are cuDNN's in any layout."""
    monkeypatch.setattr(fused, "_triton_builds", lambda: False)
    network = KINDS[kind](choice(**ENCODERS[encoder], layout="NDHWC")).train()
    seen: list[str] = []

    def look(module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(module.__class__.__name__)
        formats = {suggest_memory_format(tensor) for tensor in (inputs[0], module.weight)}
        assert torch.channels_last_3d in formats or max(module.kernel_size) == 1

    with pretended_gpu() as gpu, torch.autocast("cuda", torch.bfloat16):
        for module in gpu.moved(network).modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                module.register_forward_pre_hook(look)
        network(torch.empty(2, 1, *PLAN.patch_size, device="cuda"))
    assert len(seen) > 3
