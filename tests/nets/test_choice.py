"""A network's choice: flags and checkpoints of every version, and encoders of a user's own."""

from __future__ import annotations

import json

import pytest
import torch

from cases.registry import RegistryError
from cases.settings import Given
from nets.blocks import NetworkError
from nets.build import build_classifier, build_network
from nets.choice import NetworkChoice, UntrustedError, as_choice
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from nets.encoders import ENCODERS
from nets.encoders.resnet import ResNetSettings
from tests.nets.made_plans import choice, make_plan

# as the revision before stored them, whatever the encoder
OLD = {
    "depth": 5, "min_fmap": 4, "filters": [4, 6, 8, 8, 8, 8], "norm": "instance", "negative_slope": 0.01,
    "res_block": False, "more_chn": False, "deep_supervision": False, "deep_supr_num": 2, "channels_last": False,
    "bias": True, "encoder": "unet", "shortcut": None, "dilated": False, "checkpoint_activations": False,
    "conv_seg": False,
}  # fmt: skip
OWN = '''
from dataclasses import dataclass

from torch import nn

from cases.settings import Settings, at_least, setting


@dataclass(frozen=True, kw_only=True)
class TinySettings(Settings):
    """Tiny encoder."""

    width: int = setting(3, "channels of the first stage", check=at_least(1))


class {name}(nn.Module):
    settings = TinySettings

    def __init__(self, in_channels, strides, width):
        super().__init__()
        self.in_channels, self.strides = in_channels, strides
        self.channels = tuple(width * 2**i for i in range(len(strides)))
        into = (in_channels, *self.channels)
        self.stages = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride, 1) for a, b, stride in zip(into, self.channels, strides)
        )

    @classmethod
    def build(cls, in_channels, stages, network, own):
        return cls(in_channels, stages.strides, own.width)

    def forward(self, x):
        features = []
        for stage in self.stages:
            x = stage(x).relu()
            features.append(x)
        return features
'''


@pytest.fixture
def own_file(tmp_path):
    """Writes a file with an encoder in it; returns its name on the command line."""

    def write(stem: str, text: str = OWN.replace("{name}", "Tiny")) -> str:
        (tmp_path / f"{stem}.py").write_text(text)
        return f"{tmp_path / stem}.py:Tiny"

    return write


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"res_block": True, "deep_supervision": True, "deep_supr_num": 1},
        {"bias": False, "filters": None, "more_chn": True},
        {"encoder": "genesis", "filters": None},
        {"encoder": "resnet18", "shortcut": "A", "dilated": True, "checkpoint_activations": True},
        {"encoder": "resnet10", "shortcut": None, "filters": None, "conv_seg": True},
    ],
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_earlier_versions_stored_gives_the_same_network(changed, channels_last):
    plan = make_plan((16, 32))
    old = OLD | changed | {"channels_last": channels_last}
    made = NetworkChoice.from_json(old)
    net = build_network(plan, made)
    again = NetworkChoice.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert made.to_json()["layout"] == ("NDHWC" if channels_last else "NCDHW")
    assert made.to_json().items() >= {k: v for k, v in changed.items() if k != "filters"}.items()
    assert net.encoder.stages[1][0] is not None
    assert len(getattr(net, "heads", [0])) == (2 if old["deep_supervision"] else 1)
    assert any(name == "decoder.0.up.bias" for name, _ in net.named_parameters()) == (
        old["bias"] and "conv_seg" not in changed
    )
    kernel = next(p for p in net.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last) == channels_last or max(kernel.shape[2:]) == 1


def test_settings_that_no_version_or_another_encoder_knows():
    with pytest.raises(NetworkError, match="no version of this program knows a network's 'width'"):
        NetworkChoice.from_json(OLD | {"width": 3})
    with pytest.raises(NetworkError, match=r"shortcut belongs to resnet10, .* not to 'genesis'"):
        NetworkChoice.from_json({"encoder": "genesis", "shortcut": "A"})
    with pytest.raises(NetworkError, match=r"network: .*not supported between"):
        NetworkChoice.from_json({"depth": "deep"})


def test_what_a_command_was_given():
    given = Given((SegmentationNetworkSettings(encoder="resnet10"), ResNetSettings(shortcut="A")))
    made = NetworkChoice.of(given)
    assert made.own == (ResNetSettings(shortcut="A"),)
    assert made.encoder == "resnet10"
    assert as_choice(NetworkSettings(encoder="resnet10")).own == (ResNetSettings(),)
    with pytest.raises(NetworkError, match="unet reads no settings of its own"):
        NetworkChoice(network=NetworkSettings(), own=(ResNetSettings(),))


def test_the_old_name_of_a_norm_means_instance():
    net = build_network(make_plan((8, 16, 16)), choice(norm="instance_nvfuser"))
    assert isinstance(net.encoder.stages[0][0].norm_act.norm, torch.nn.InstanceNorm3d)


def test_an_own_encoder_trains(own_file):
    name = own_file("own_tiny")
    (kind,) = ENCODERS.settings_of(name)
    made = NetworkChoice(network=NetworkSettings(encoder=name, filters=(4, 6) + (8,) * 4), own=(kind(width=5),))
    plan = make_plan((16, 24, 32))
    net = build_network(plan, made)
    assert net.encoder.channels == (5, 10, 20, 40)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = [p.detach().clone() for p in net.encoder.parameters()]
    (logits,) = net(torch.randn(2, 1, 16, 24, 32))
    assert logits.shape == (2, 3, 16, 24, 32)
    logits.square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(a, b) for a, b in zip(before, net.encoder.parameters(), strict=True))
    assert build_classifier(plan, made, 4)(torch.randn(2, 1, 16, 24, 32)).shape == (2, 4)


def test_no_checkpoint_makes_code_run(own_file, tmp_path):
    ran = tmp_path / "ran"
    name = own_file("own_stored", f"open({str(ran)!r}, 'w').close()\n" + OWN.replace("{name}", "Tiny"))
    stored = {"encoder": name, "width": 7}
    with pytest.raises(UntrustedError, match=r"made with .*own_stored.py:Tiny, which is no part of this program"):
        NetworkChoice.from_json(stored)
    with pytest.raises(UntrustedError, match=r"own_stored.py:Tiny"):
        NetworkChoice.from_json({"norm": name})
    assert not ran.exists()
    made = NetworkChoice.from_json(stored, trusted=(name,))
    assert ran.exists()
    assert made.to_json().items() >= stored.items()


def test_own_encoders_that_cannot_be_used_are_named(own_file):
    with pytest.raises(NetworkError, match=r"no_such.py does not exist"):
        NetworkSettings(encoder="no_such.py:Tiny")
    with pytest.raises(NetworkError, match=r"own_other.py defines no Tiny; did you mean Tiyn"):
        NetworkSettings(encoder=own_file("own_other", "Tiyn = 1\n"))
    with pytest.raises(NetworkError, match="is no encoder: it has no build"):
        NetworkSettings(encoder=own_file("own_bare", "Tiny = 1\n"))
    with pytest.raises(NetworkError, match=r"cannot be imported .*ZeroDivisionError"):
        NetworkSettings(encoder=own_file("own_broken", "1 / 0\n"))
    wrong = own_file("own_wrong", "class Tiny:\n    settings = int\n    build = None\n")
    with pytest.raises(RegistryError, match=r"its settings are no subclass of cases.settings.Settings"):
        as_choice(NetworkSettings(encoder=wrong))
    tiny = own_file("own_flags")
    with pytest.raises(NetworkError, match=r"res_block belongs to unet, not to '.*own_flags.py:Tiny'"):
        NetworkSettings(encoder=tiny, res_block=True)


def test_own_encoders_that_break_the_contract_are_named(own_file):
    plan = make_plan((16, 24, 32))
    other = "class Tiny:\n    @staticmethod\n    def build(in_channels):\n        return None\n"
    with pytest.raises(NetworkError, match=r"own_called.py:Tiny is called as build\(in_channels, stages, network\)"):
        build_network(plan, NetworkSettings(encoder=own_file("own_called", other)))
    nothing = other.replace("(in_channels)", "(*arguments)")
    with pytest.raises(NetworkError, match=r"own_nothing.py:Tiny has no in_channels, channels, strides; see"):
        build_network(plan, NetworkSettings(encoder=own_file("own_nothing", nothing)))
    uneven = OWN.replace("{name}", "Tiny").replace("for i in range(len(strides))", "for i in range(2)")
    with pytest.raises(NetworkError, match="has 2 channels and 4 strides"):
        build_network(plan, NetworkSettings(encoder=own_file("own_uneven", uneven)))


def test_an_own_normalisation(own_file, tmp_path):
    name = own_file("own_norm", "from torch import nn\n\ndef Tiny(channels, dim, *, eps):\n    return nn.Identity()\n")
    net = build_network(make_plan((8, 16, 16)), choice_trusting(name))
    assert isinstance(net.encoder.stages[0][0].norm_act.norm, torch.nn.Identity)


def choice_trusting(norm):
    return NetworkChoice.from_json({"norm": norm}, trusted=(norm,))
