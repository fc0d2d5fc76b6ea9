"""The reader of our own checkpoints."""

from __future__ import annotations

import pytest
import torch

from nets.build import build_network
from nets.weights.files import WeightsError
from nets.weights.own import ForeignWeightsError, read_own
from tests.nets.made_plans import choice, make_plan

FILTERS = (4, 6, 8, 8, 8, 8)


@pytest.fixture
def stored(tmp_path):
    """Writes a checkpoint with some entries changed; returns its path and the network."""
    plan, chosen = make_plan((8, 16, 16)), choice(filters=FILTERS)
    net = build_network(plan, chosen)

    def write(**changes):
        content = {
            "epoch": 4,
            "kind": "segmentation",
            "plan": plan.to_json(),
            "network_settings": chosen.to_json(),
            "n_outputs": 3,
            "settings": {"seed": 1},
            "state_dict": {f"network.{k}": v for k, v in net.state_dict().items()} | {"other": torch.zeros(1)},
        }
        path = tmp_path / "last.ckpt"
        torch.save({k: v for k, v in (content | changes).items() if v is not None}, path)
        return path

    return write, net, plan, chosen


def test_all_that_predict_needs(stored):
    write, net, plan, chosen = stored
    own = read_own(write())
    assert (own.kind, own.n_outputs, own.settings, own.epoch) == ("segmentation", 3, {"seed": 1}, 4)
    assert (own.plan, own.network) == (plan, chosen)
    build_network(own.plan, own.network, out_channels=own.n_outputs).load_state_dict(own.weights)
    assert own.weights.keys() == net.state_dict().keys()


def test_other_files_are_named(stored, tmp_path):
    write = stored[0]
    with pytest.raises(WeightsError, match=r"none.ckpt does not exist: give the path of a .ckpt file"):
        read_own(tmp_path / "none.ckpt")
    with pytest.raises(ForeignWeightsError, match="is no checkpoint of this program"):
        read_own(write(plan=None))
    with pytest.raises(WeightsError, match=r"of another version of this program: .*'speed'"):
        read_own(write(network_settings={"speed": 3}))
    with pytest.raises(WeightsError, match=r"last.ckpt: the network is made with evil.py:Net, which is no part"):
        read_own(write(network_settings={"encoder": "evil.py:Net"}))
