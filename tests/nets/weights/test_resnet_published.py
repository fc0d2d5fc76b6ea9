"""Every depth and shortcut against the network as its paper tells it, in plain functions on a state dict.

Widths are an eighth of the published ones, which no code of ours depends on, so that fourteen networks are quick.
"""

import pytest
import torch
from torch.nn import functional as F

import nets.encoders.resnet
from nets.build import build_network
from nets.weights.files import WeightsError
from nets.weights.matching import load_pretrained
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network
from tests.nets.made_plans import choice, make_plan
from tests.nets.published_layouts import relative_error

LAYERS = {  # blocks of the four layers, and whether they are bottlenecks
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
STRIDE_AND_DILATION = ((1, 1), (2, 1), (1, 2), (1, 4))
WIDTHS = (8, 16, 32, 64)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setattr(nets.encoders.resnet, "WIDTHS", WIDTHS)


def published_state(depth, shortcut, *, channels=1, classes=3, seed=0):
    """Random weights under the published names."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def conv(name, out, into, side):
        fan_in = into * side**3
        state[f"{name}.weight"] = torch.randn(out, into, side, side, side, generator=generator) * (2 / fan_in) ** 0.5

    def norm(name, width):
        state[f"{name}.weight"] = 0.7 + 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(width, generator=generator)
        state[f"{name}.running_var"] = 0.8 + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(3)

    conv("conv1", WIDTHS[0], channels, 7)
    norm("bn1", WIDTHS[0])
    counts, bottleneck = LAYERS[depth]
    into = WIDTHS[0]
    for layer, (count, width, (stride, _)) in enumerate(zip(counts, WIDTHS, STRIDE_AND_DILATION, strict=True), start=1):
        out = 4 * width if bottleneck else width
        for block in range(count):
            name = f"layer{layer}.{block}"
            shapes = [(width, into, 1), (width, width, 3), (out, width, 1)]
            for unit, shape in enumerate(shapes if bottleneck else [(width, into, 3), (width, width, 3)], start=1):
                conv(f"{name}.conv{unit}", *shape)
                norm(f"{name}.bn{unit}", shape[0])
            if shortcut == "B" and block == 0 and (stride > 1 or into != out):
                conv(f"{name}.downsample.0", out, into, 1)
                norm(f"{name}.downsample.1", out)
            into = out
    state["conv_seg.0.weight"] = torch.randn(into, 32, 2, 2, 2, generator=generator) * 0.05
    state["conv_seg.0.bias"] = torch.randn(32, generator=generator)
    norm("conv_seg.1", 32)
    conv("conv_seg.3", 32, 32, 3)
    norm("conv_seg.4", 32)
    conv("conv_seg.6", classes, 32, 1)
    return state


def plain_outputs(state, x, depth, shortcut):
    """Stem, layer1 to layer4 and the logits."""

    def norm(x, name):
        values = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *values, training=False)

    def around(x, name, out, stride):
        if stride == 1 and x.shape[1] == out:
            return x
        if shortcut == "B":
            return norm(F.conv3d(x, state[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
        x = F.avg_pool3d(x, 1, stride)
        return torch.cat([x, x.new_zeros(len(x), out - x.shape[1], *x.shape[2:])], dim=1)

    x = F.relu(norm(F.conv3d(x, state["conv1.weight"], stride=2, padding=3), "bn1"))
    outputs = [x]
    x = F.max_pool3d(x, 3, 2, 1)
    counts, bottleneck = LAYERS[depth]
    for layer, (count, width) in enumerate(zip(counts, WIDTHS, strict=True), start=1):
        first_stride, dilation = STRIDE_AND_DILATION[layer - 1]
        for block in range(count):
            name, stride = f"layer{layer}.{block}", 1 if block else first_stride
            kernels = [state[f"{name}.conv{unit}.weight"] for unit in ((1, 2, 3) if bottleneck else (1, 2))]
            wide = {"stride": stride, "padding": dilation, "dilation": dilation}
            ways = [{}, wide, {}] if bottleneck else [wide, {"padding": dilation, "dilation": dilation}]
            y = x
            for unit, (kernel, way) in enumerate(zip(kernels, ways, strict=True), start=1):
                y = norm(F.conv3d(y, kernel, **way), f"{name}.bn{unit}")
                y = F.relu(y) if unit < len(kernels) else y
            x = F.relu(y + around(x, name, 4 * width if bottleneck else width, stride))
        outputs.append(x)
    x = F.conv_transpose3d(x, state["conv_seg.0.weight"], state["conv_seg.0.bias"], stride=2)
    x = F.conv3d(F.relu(norm(x, "conv_seg.1")), state["conv_seg.3.weight"], padding=1)
    return [*outputs, F.conv3d(F.relu(norm(x, "conv_seg.4")), state["conv_seg.6.weight"])]


def save(folder, state, *, wrapped):
    path = folder / "weights.pth.tar"
    torch.save({"state_dict": {("module." if wrapped else "") + key: value for key, value in state.items()}}, path)
    return path


@pytest.mark.parametrize("depth", LAYERS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@torch.no_grad()
def test_every_depth_and_shortcut_computes_the_published_function(depth, shortcut, tmp_path):
    state = published_state(depth, shortcut, seed=depth)
    path = save(tmp_path, state, wrapped=shortcut == "B")
    net = rebuild_network(read_weights(path))
    assert (net.encoder.depth, net.encoder.shortcut) == (depth, shortcut)
    x = torch.randn(1, 1, 24, 32, 40, generator=torch.Generator().manual_seed(1))
    features = net.encoder(x)
    expected = plain_outputs(state, x, depth, shortcut)
    for ours, theirs in zip([*features, net.decode(features)[0]], expected, strict=True):
        assert ours.shape == theirs.shape
        assert theirs.std() > 1e-3  # an output that died would agree with anything
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("depth", LAYERS)
@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("dilated", [False, True])
def test_a_unet_takes_the_whole_encoder(depth, shortcut, dilated, tmp_path):
    path = save(tmp_path, published_state(depth, shortcut), wrapped=True)
    settings = choice(encoder=f"resnet{depth}", shortcut=shortcut, dilated=dilated, filters=(4,) * 6)
    net = build_network(make_plan((16, 32, 32)), settings)
    report = load_pretrained(net, path)
    assert report.encoder_coverage == 1
    assert report.new
    assert not any(name.startswith("encoder.") for name in report.new)


@pytest.mark.parametrize(("depth", "shortcut"), [(34, "A"), (50, "B"), (18, "A")])
def test_another_depth_or_shortcut_is_refused_by_name(depth, shortcut, tmp_path):
    path = save(tmp_path, published_state(depth, shortcut), wrapped=False)
    other = {"A": "B", "B": "A"}[shortcut]
    for settings in ({"encoder": "resnet10"}, {"encoder": f"resnet{depth}", "shortcut": other}):
        net = build_network(make_plan((16, 32, 32)), choice(filters=(4,) * 6, **settings))
        before = net.encoder.stages[0][0].conv.weight.clone()
        with pytest.raises(WeightsError, match=f"give --encoder resnet{depth} --shortcut {shortcut}"):
            load_pretrained(net, path)
        assert torch.equal(net.encoder.stages[0][0].conv.weight, before)


def test_several_channels_and_a_2d_network(tmp_path):
    state = published_state(10, "B")
    path = save(tmp_path, state, wrapped=True)
    settings = choice(encoder="resnet10", filters=(4,) * 6)
    net = build_network(make_plan((16, 32, 32), channels=3), settings)
    report = load_pretrained(net, path)
    stem = net.encoder.stages[0][0].conv.weight
    torch.testing.assert_close(stem, state["conv1.weight"].expand(-1, 3, -1, -1, -1) / 3)
    assert "1 to 3 channels of the image" in str(report)
    flat = build_network(make_plan((32, 32)), settings)
    assert "kernel 7x7x7 to 7x7" in str(load_pretrained(flat, path))
    torch.testing.assert_close(flat.encoder.stages[0][0].conv.weight, state["conv1.weight"].sum(2))
