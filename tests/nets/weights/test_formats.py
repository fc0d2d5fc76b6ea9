import os
import pickle

import h5py
import numpy as np
import pytest
import torch

from nets.encoders.genesis import GenesisEncoder, GenesisUNet
from nets.encoders.resnet import BLOCKS, ResNetEncoder
from nets.medicalnet import MedicalNet
from nets.weights.files import WeightsError, load_safely
from nets.weights.reading import read_weights, resnet_kind

ESCAPE = "escaped"


class Malicious:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def genesis_names(net):
    """Our GenesisUNet's state under the published names."""
    levels, state = ("64", "128", "256", "512"), {}
    for name, value in net.state_dict().items():
        name = name.replace(".conv.", ".conv1.").replace(".norm_act.norm.", ".bn1.")
        parts = name.split(".")
        if parts[0] == "encoder":
            key = f"down_tr{levels[int(parts[2])]}.ops.{'.'.join(parts[3:])}"
        elif parts[0] == "decoder" and parts[2] == "up":
            key = f"up_tr{levels[int(parts[1])]}.up_conv.{parts[3]}"
        elif parts[0] == "decoder":
            key = f"up_tr{levels[int(parts[1])]}.ops.{'.'.join(parts[3:])}"
        else:
            key = f"out_tr.final_conv.{parts[-1]}"
        state[key] = value
    return state


@pytest.mark.parametrize(
    "prefix", ["", "module.", "classficationNet.", "module.classficationNet.", "_orig_mod.module."]
)
def test_wrappers_and_extras_of_published_keys(tmp_path, prefix):
    net = GenesisUNet(GenesisEncoder())
    state = {prefix + key: value for key, value in genesis_names(net).items()}
    state |= {"module.projection_head.0.weight": torch.zeros(3, 3), "prototypes.weight": torch.zeros(3, 3)}
    torch.save({"state_dict": state, "best_loss": np.float64(1.5)}, tmp_path / "w.pt")
    weights = read_weights(tmp_path / "w.pt", weights_axes="as_stored")
    assert weights.title == "Models Genesis (PyTorch)"
    assert weights.unknown == ("projection_head.0.weight", "prototypes.weight")
    for name, value in net.state_dict().items():
        torch.testing.assert_close(weights.tensors[name], value.float(), msg=name)


def test_published_axes_are_reversed(tmp_path):
    net = GenesisUNet(GenesisEncoder())
    torch.save(genesis_names(net), tmp_path / "bare.pt")  # a bare state dict is taken too
    tensors = read_weights(tmp_path / "bare.pt").tensors
    kernel = net.encoder.stages[1][0].conv.weight
    torch.testing.assert_close(tensors["encoder.stages.1.0.conv.weight"], kernel.permute(0, 1, 4, 3, 2))
    up = net.decoder[1].up.weight
    torch.testing.assert_close(tensors["decoder.1.up.weight"], up.permute(0, 1, 4, 3, 2))


@pytest.mark.parametrize("depth", BLOCKS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_depth_and_shortcut_are_read_off(depth, shortcut):
    with torch.device("meta"):
        state = MedicalNet(ResNetEncoder(depth, shortcut=shortcut, dilated=True)).state_dict()
    assert resnet_kind(state) == (depth, shortcut)


def test_nothing_is_unpickled(tmp_path):
    target = tmp_path / ESCAPE
    torch.save({"state_dict": {"a": torch.zeros(1)}, "extra": Malicious(target)}, tmp_path / "bad.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Malicious(target)))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(WeightsError, match=r"bad.pt holds Python objects \(posix.mkdir\).*nothing of it was run"):
        load_safely(tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"raw.pkl"):
        load_safely(tmp_path / "raw.pkl")
    with pytest.raises(WeightsError, match=r"module.pt holds Python objects \(torch.nn.modules.linear.Linear\)"):
        read_weights(tmp_path / "module.pt")
    assert not target.exists()


def test_files_that_are_no_weights_are_named(tmp_path):
    cases = {
        "text.pt": (b"hello, I am no checkpoint", "no checkpoint, or a damaged one"),
        "empty.pt": (b"", "no checkpoint, or a damaged one"),
        "cut.pt": (b"PK\x03\x04" + bytes(50), "no checkpoint, or a damaged one"),
        "cut.h5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "damaged HDF5"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name} is .*{message}|{name} is a {message}"):
            read_weights(tmp_path / name)
    with pytest.raises(WeightsError, match=r"missing.pt does not exist"):
        read_weights(tmp_path / "missing.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list, not a dictionary"):
        read_weights(tmp_path / "list.pt")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "numbers.pt")
    with pytest.raises(WeightsError, match="holds no weights: its entries are epoch, lr"):
        read_weights(tmp_path / "numbers.pt")
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"unknown network \(keys such as fc.weight\): known are .*MedicalNet"):
        read_weights(tmp_path / "other.pt")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["dense/dense/kernel:0"] = np.zeros((2, 2))
    with pytest.raises(WeightsError, match=r"other.h5 is an HDF5 file, but not Models Genesis'"):
        read_weights(tmp_path / "other.h5")


def test_numpy_numbers_beside_the_weights_are_taken(tmp_path):
    extras = {"best": np.float32(0.5), "n": np.int64(3), "flag": np.bool_(True), "dtype": np.dtype("float32")}
    torch.save({"state_dict": {"a": torch.zeros(1)}} | extras, tmp_path / "w.pt")
    assert load_safely(tmp_path / "w.pt")["best"] == 0.5
