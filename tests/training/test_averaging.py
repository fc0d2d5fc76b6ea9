"""``--ema``: the same average as Lightning's, made where the weights are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from training.averaging import AveragedWeights


class Learner(LightningModule):
    """Weights, a batch norm's statistics and its counter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def learn(averaging: EMAWeightAveraging, steps: int, module: Learner, first: int = 0) -> None:
    """Steps that change everything in a way of their own."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=generator))
                else:
                    tensor.add_(1)
        trainer: Any = SimpleNamespace(global_step=step + 1)
        averaging.on_train_batch_end(trainer, module, None, None, step)


def started(averaging: EMAWeightAveraging, module: Learner) -> EMAWeightAveraging:
    trainer: Any = SimpleNamespace()
    averaging.setup(trainer, module, "fit")
    averaging.on_fit_start(trainer, module)
    return averaging


def saved(averaging: EMAWeightAveraging, module: Learner) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": {k: v.clone() for k, v in module.state_dict().items()}}
    averaging.on_save_checkpoint(None, module, checkpoint)  # type: ignore[arg-type]
    return checkpoint


def test_it_is_lightnings_average_in_lightnings_checkpoint() -> None:
    ours, theirs = Learner(), Learner()
    own, lightnings = started(AveragedWeights(0.9), ours), started(EMAWeightAveraging(decay=0.9), theirs)
    learn(own, 7, ours)
    learn(lightnings, 7, theirs)
    mine, other = saved(own, ours), saved(lightnings, theirs)
    assert mine.keys() == other.keys() and own.state_key == lightnings.state_key
    assert mine["averaging_state"] == other["averaging_state"]
    for name, value in mine["state_dict"].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, other["state_dict"][name], rtol=1e-5, atol=1e-6)
    assert mine["state_dict"]["layers.1.num_batches_tracked"] == 7  # Lightning rounds an average of counts down


@pytest.mark.parametrize("earlier", [EMAWeightAveraging, AveragedWeights])
def test_a_resumed_run_goes_on_with_the_average(earlier: type[EMAWeightAveraging]) -> None:
    whole = Learner()
    averaging = started(AveragedWeights(0.5), whole)
    learn(averaging, 6, whole)

    first = Learner()
    before = started(earlier(decay=0.5), first)
    learn(before, 4, first)
    checkpoint = saved(before, first)
    second = Learner()
    after = AveragedWeights(0.5)
    after.setup(None, second, "fit")  # type: ignore[arg-type]
    after.on_load_checkpoint(None, second, checkpoint)  # type: ignore[arg-type]
    after.load_state_dict(before.state_dict())
    after.on_fit_start(None, second)  # type: ignore[arg-type]
    learn(after, 2, second, first=4)
    for name, value in saved(after, second)["state_dict"].items():
        torch.testing.assert_close(value, saved(averaging, whole)["state_dict"][name], rtol=1e-5, atol=1e-6)
