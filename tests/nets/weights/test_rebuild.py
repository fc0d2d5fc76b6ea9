import pytest
import torch

from nets.weights.files import WeightsError
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network
from tests.nets.published_layouts import relative_error

TOLERANCE = 1e-4


def load(reference, name):
    path, arrays = reference(name)
    net = rebuild_network(read_weights(path, weights_axes="as_stored"))
    return net, torch.from_numpy(arrays["input"]), arrays


@torch.no_grad()
def test_models_genesis(reference):
    net, x, arrays = load(reference, "models_genesis_unet3d")
    assert relative_error(net(x)[0].sigmoid(), arrays["output0"]) < TOLERANCE
    assert relative_error(net.encoder(x)[-1], arrays["bottleneck512"]) < TOLERANCE
    net.train()  # batch statistics in both modes
    assert relative_error(net(x)[0].sigmoid(), arrays["output0"]) < TOLERANCE


@torch.no_grad()
def test_models_genesis_on_reversed_axes(reference):
    path, arrays = reference("models_genesis_unet3d")
    net = rebuild_network(read_weights(path))
    x = torch.from_numpy(arrays["input"]).permute(0, 1, 4, 3, 2)
    assert relative_error(net(x)[0].sigmoid().permute(0, 1, 4, 3, 2), arrays["output0"]) < TOLERANCE


@torch.no_grad()
def test_models_genesis_keras(reference):
    net, x, arrays = load(reference, "models_genesis_keras")
    assert relative_error(net(x)[0].sigmoid(), arrays["output0"]) < TOLERANCE


@torch.no_grad()
def test_semantic_genesis(reference):
    net, x, arrays = load(reference, "semantic_genesis_ynet3d")
    restored, scores = net(x)
    assert relative_error(restored.sigmoid(), arrays["output0"]) < TOLERANCE
    assert relative_error(scores.softmax(1), arrays["output1"]) < TOLERANCE


@torch.no_grad()
def test_genesis_nnunet(reference):
    net, x, arrays = load(reference, "genesis_nnunet_luna16")
    assert net.encoder.strides[-1] == (1, 2, 2)
    assert relative_error(net(x)[0], arrays["output0"]) < TOLERANCE


@pytest.mark.parametrize("name", ["medicalnet_resnet10B", "medicalnet_resnet18A", "medicalnet_resnet50B"])
@torch.no_grad()
def test_medicalnet(reference, name):
    net, x, arrays = load(reference, name)
    features = net.encoder(x)
    outputs = [net.decode(features)[0], *features]
    for i, output in enumerate(outputs):
        assert relative_error(output, arrays[f"output{i}"]) < TOLERANCE, i
    (full,) = net(x)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(arrays["output0"]).softmax(1), x.shape[2:], mode="trilinear", align_corners=True
    )
    assert relative_error(full.softmax(1), expected) < TOLERANCE
    assert f"ResNet-{net.encoder.depth}, shortcut {net.encoder.shortcut}" in read_weights(reference(name)[0]).title


def test_a_resnet_without_a_head_cannot_predict(reference, tmp_path):
    path, _ = reference("medicalnet_resnet10B")
    state = torch.load(path, weights_only=True)["state_dict"]
    bare = tmp_path / "resnet_10.pth"
    torch.save({"state_dict": {k: v for k, v in state.items() if "conv_seg" not in k}}, bare)
    with pytest.raises(WeightsError, match=r"resnet_10.pth .*ResNet-10, shortcut B.* it can start a training"):
        rebuild_network(read_weights(bare))
