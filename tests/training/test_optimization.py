import pytest
import torch

from training.optimization import OptimizationSettings, build_optimizer, learning_rate_factor


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
