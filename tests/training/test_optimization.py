import pytest
import torch

from training.optimization import (
    OptimizationError,
    OptimizationSettings,
    build_optimizer,
    learning_rate_factor,
    optimizer_and_schedule,
    parameter_groups,
)


def test_schedules_at_their_landmarks():
    assert learning_rate_factor("none", 17, 100) == 1
    assert learning_rate_factor("cosine", 0, 100) == pytest.approx(0.1)
    assert learning_rate_factor("cosine", 10, 100) == pytest.approx(1)
    assert learning_rate_factor("cosine", 55, 100) == pytest.approx(0.5)
    assert learning_rate_factor("cosine", 100, 100) == pytest.approx(0)
    assert learning_rate_factor("one_cycle", 0, 100) == pytest.approx(0.04)
    assert learning_rate_factor("one_cycle", 30, 100) == pytest.approx(1)
    assert learning_rate_factor("one_cycle", 100, 100) == pytest.approx(1e-4)
    assert learning_rate_factor("polynomial", 50, 100) == pytest.approx(0.5**0.9)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizers_descend(name, kind):
    weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = build_optimizer([weight], OptimizationSettings(optimizer=name, learning_rate=0.05, momentum=0.5))
    assert isinstance(optimizer, kind)
    for _ in range(100):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert weight.abs().max().item() < 0.1


def test_new_layers_learn_faster_and_all_decay_by_epochs():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    settings = OptimizationSettings(
        optimizer="sgd", learning_rate=0.001, scheduler="exponential", lr_decay=0.5, new_layer_lr_mult=100
    )
    made = optimizer_and_schedule(parameter_groups(net, {"1.weight", "1.bias"}, settings), settings, 10)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.001, 0.1])
    assert [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups] == [8, 3]
    assert scheduler["interval"] == "epoch"
    optimizer.step()
    scheduler["scheduler"].step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.0005, 0.05])


def test_one_group_where_nothing_was_transferred():
    net = torch.nn.Linear(3, 2)
    assert len(parameter_groups(net, set(), OptimizationSettings(new_layer_lr_mult=100))) == 1
    assert len(parameter_groups(net, {"weight"}, OptimizationSettings())) == 1


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_step_that_is_not_fused_is_the_same(name):
    """Clipping under mixed precision needs one."""
    weights = []
    for fused in (True, False):
        weight = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        optimizer = build_optimizer(
            [weight], OptimizationSettings(optimizer=name, momentum=0.5, gradient_clip_val=0.0 if fused else 1.0)
        )
        assert optimizer.defaults["fused"] is fused
        (weight**2).sum().backward()
        optimizer.step()
        weights.append(weight.detach())
    torch.testing.assert_close(*weights)


def test_plateau_halves_where_the_loss_falls_no_more():
    settings = OptimizationSettings(learning_rate=0.01, scheduler="plateau", plateau_epochs=2)
    made = optimizer_and_schedule([torch.nn.Parameter(torch.ones(2))], settings, 100)
    assert made["lr_scheduler"]["monitor"] == "loss"
    rates = []
    for loss in (1.0, 0.5, 0.5, 0.6, 0.5, 0.5, 0.4):
        made["lr_scheduler"]["scheduler"].step(loss)
        rates.append(made["optimizer"].param_groups[0]["lr"])
    assert rates == [0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005]


def test_faults_name_the_flags():
    with pytest.raises(OptimizationError, match="--learning_rate 0 is not above 0; --step_epochs 0 is not above 0"):
        OptimizationSettings(learning_rate=0, step_epochs=0)
    with pytest.raises(OptimizationError, match="--gradient_clip_val -1 is below 0"):
        OptimizationSettings(gradient_clip_val=-1)


def test_gradients_are_clipped_before_a_step_that_is_not_fused():
    assert OptimizationSettings().fused
    assert not OptimizationSettings(gradient_clip_val=12.0).fused
