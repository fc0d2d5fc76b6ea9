import math

import numpy as np
import pytest
import torch

from cases.plan import Normalization, Plan
from nets.dynamic_unet import NetworkSettings
from pretraining.restoration import RestorationModule, draw_restoration

PLAN = Plan(
    name="99_3d",
    dataset="Task99_Test",
    dim=3,
    channels=("CT",),
    labels=("background",),
    spacing_mm=(1.0, 1.0, 1.0),
    patch_size=(8, 12, 16),
    normalization=(Normalization(scheme="zscore"),),
)
NETWORK = NetworkSettings(depth=1, filters=(2, 4))


def module(**changes):
    torch.manual_seed(0)
    return RestorationModule(PLAN, NETWORK, **changes)


def test_restoration_is_a_sigmoid_of_the_first_logits():
    net = module().eval()
    x = torch.rand(2, 1, 8, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(net.restore(x), net.network(x)[0].sigmoid())


def test_z_scored_input_is_hounsfield_units_as_published():
    net = module(z_score=(-775.8457, 251.9326)).eval()
    x = torch.rand(1, 1, 8, 12, 16)
    with torch.no_grad():
        expected = net.network((x * 2000 - 1000 + 775.8457) / 251.9326)[0].sigmoid()
        torch.testing.assert_close(net.restore(x), expected)


def test_the_loss_is_the_mean_squared_error_of_every_output():
    net = module(outputs=2)
    net.log = lambda *_, **__: None
    batch = {"image": torch.rand(2, 1, 8, 12, 16), "target": torch.rand(2, 1, 8, 12, 16)}
    restored = net.restore(batch["image"])
    assert restored.shape[1] == 2
    expected = ((restored - batch["target"]) ** 2).mean()
    assert net.training_step(batch, 0).item() == pytest.approx(expected.item(), rel=1e-6)


class OneRank:
    """What a validation needs of a trainer."""

    class strategy:
        @staticmethod
        def reduce(tensor, reduce_op):
            return tensor


def evaluate(net, targets, monkeypatch):
    monkeypatch.setattr(type(net), "trainer", OneRank())
    monkeypatch.setattr(type(net), "current_epoch", 7)
    net.log = lambda *_, **__: None
    net.eval()
    with torch.no_grad():
        for index, target in enumerate(targets):
            net.validation_step({"image": target, "target": target}, index)
    net.on_validation_epoch_end()
    return net.evaluation()


def test_a_collapsed_network_is_noticed_once_and_the_warning_says_what_to_change(monkeypatch, capsys):
    net = module()
    for parameter in net.network.parameters():
        parameter.data.zero_()
    targets = [torch.rand(2, 1, 8, 12, 16), torch.rand(1, 1, 8, 12, 16)]
    texts = []
    for _ in range(4):
        result = evaluate(net, targets, monkeypatch)
        texts.append(capsys.readouterr().err)
    errors = torch.cat([((t - 0.5) ** 2).flatten(1).mean(1) for t in targets])
    assert result["Val Loss"] == pytest.approx(errors.mean().item(), rel=1e-5)  # by patch, whatever the batch
    assert result["Spread %"] == pytest.approx(0.0, abs=1e-4)
    assert texts[0] == texts[1] == texts[3] == ""
    assert "epoch 7: the network has collapsed" in texts[2]
    assert "--learning_rate (now 0.0008)" in texts[2]


def test_a_network_that_restores_raises_no_warning(monkeypatch, capsys):
    net = module()
    monkeypatch.setattr(net, "restore", lambda x: x)
    for _ in range(4):
        result = evaluate(net, [torch.rand(2, 1, 8, 12, 16)], monkeypatch)
    assert result == {"Val Loss": 0.0, "Min Val Loss": 0.0, "Best epoch": 7, "Spread %": pytest.approx(100.0)}
    assert capsys.readouterr().err == ""


def test_the_best_loss_survives_a_checkpoint():
    net, other, content = module(), module(), {}
    net.best, net.best_epoch, net.flat_evaluations = 0.25, 3, 2
    net.on_save_checkpoint(content)
    assert content["kind"] == "restoration"
    assert content["n_outputs"] == 1
    assert math.isinf(other.best)
    other.on_load_checkpoint(content)
    assert (other.best, other.best_epoch, other.flat_evaluations) == (0.25, 3, 2)


def test_picture_has_a_row_for_every_patch(tmp_path):
    heights = []
    for rows in (1, 3):
        path = tmp_path / f"{rows}.png"
        draw_restoration(path, [np.random.default_rng(i).random((rows, 12, 16)) for i in range(3)])
        heights.append(int.from_bytes(path.read_bytes()[20:24], "big"))
    assert heights == [253, 693]
