import pytest
import torch

from nets.build import build_classifier, build_network, build_two_headed
from nets.encoders.genesis import GenesisEncoder, GenesisUNet
from nets.encoders.resnet import ResNetEncoder
from nets.medicalnet import MedicalNet
from nets.weights.export import to_medicalnet
from nets.weights.files import WeightsError
from nets.weights.matching import TransferSettings, load_pretrained
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network
from tests.nets.made_plans import choice, make_plan
from tests.nets.published_layouts import relative_error

FILTERS = (8, 12, 16, 20, 24, 24)


def net_of(patch=(16, 32, 64), *, spacing=(1.0, 1.0, 1.0), channels=1, out=None, **settings):
    settings = {"filters": FILTERS} | settings
    return build_network(make_plan(patch, spacing=spacing, channels=channels), choice(**settings), out_channels=out)


def saved(net, folder, name="w.ckpt", **content):
    """As Lightning writes it."""
    path = folder / name
    torch.save({"state_dict": {f"network.{k}": v for k, v in net.state_dict().items()}} | content, path)
    return path


def checkpoint(folder, patch=(16, 32, 64), *, spacing=(1.0, 1.0, 1.0), channels=1, build=build_network, **settings):
    """An own checkpoint that holds its plan, and the network in it."""
    plan = make_plan(patch, spacing=spacing, channels=channels)
    settings = {"filters": FILTERS} | settings
    net = build(plan, choice(**settings))
    for norm in (m for m in net.modules() if hasattr(m, "num_features")):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias, std=0.1)
    return saved(net, folder, plan=plan.to_json(), network_settings=settings), net


def test_the_same_network_is_taken_whole(tmp_path):
    path, net = checkpoint(tmp_path)
    other = net_of()
    report = load_pretrained(other, path, transfer="all")
    assert report.coverage == report.encoder_coverage == 1.0
    assert {e.action for e in report.entries} == {"taken"}
    x = torch.randn(1, 1, 16, 32, 64)
    torch.testing.assert_close(other(x)[0], net(x)[0])
    rebuilt = rebuild_network(read_weights(path))
    torch.testing.assert_close(rebuilt(x)[0], net(x)[0])


def test_the_encoder_alone_is_the_default(tmp_path):
    path, net = checkpoint(tmp_path)
    other = net_of(out=5)
    before = other.decoder[0].up.weight.clone()
    report = load_pretrained(other, path)
    assert report.encoder_coverage == 1.0
    assert 0 < report.coverage < 1
    assert other.decoder[0].up.weight.equal(before)
    assert "not of the encoder" in str(report)
    x = torch.randn(1, 1, 16, 32, 64)
    for a, b in zip(other.encoder(x), net.encoder(x), strict=True):
        torch.testing.assert_close(a, b)


def test_other_classes_leave_the_head(tmp_path):
    path, _ = checkpoint(tmp_path)
    other = net_of(out=7)
    report = load_pretrained(other, path, transfer="all")
    left = [e.name for e in report.entries if e.action == "left"]
    assert left == ["heads.0.weight", "heads.0.bias"]
    assert report.new == {"heads.0.weight", "heads.0.bias"}
    assert "another number of outputs" in str(report)


@pytest.mark.parametrize(
    "target",
    [
        {"patch": (8, 48, 64), "spacing": (4.0, 1.0, 1.0)},  # 1x3x3 kernels first
        {"filters": (6, 10, 16, 24, 32, 32)},
        {"filters": (16, 32, 64, 64, 64, 64), "channels": 3, "min_coverage": 0.05},
        {"patch": (32, 64)},
        {"patch": (64, 64), "channels": 2, "filters": (8, 10, 16, 20, 20, 20)},
        {"res_block": True},
        {"norm": "batch"},
        {"norm": "group"},
        {"depth": 2},
    ],
)
def test_a_clearly_different_plan_starts_with_a_report(tmp_path, target):
    path, _ = checkpoint(tmp_path)
    least = target.pop("min_coverage", 0.5)
    other = net_of(**target)
    report = load_pretrained(other, path, transfer="all", min_coverage=least)
    assert report.encoder_coverage >= least
    assert report.path == path
    assert len(report.lines()) == len(list(other.parameters()))
    patch, channels = target.get("patch", (16, 32, 64)), target.get("channels", 1)
    logits = other(torch.randn(2, channels, *patch))[0]
    assert torch.isfinite(logits).all()
    logits.square().mean().backward()
    assert all(p.grad is not None for p in other.parameters())


def test_a_wider_network_computes_what_the_old_one_did(tmp_path):
    path, net = checkpoint(tmp_path)
    wide = net_of(filters=tuple(f + 3 for f in FILTERS))
    load_pretrained(wide, path, transfer="all")
    x = torch.randn(1, 1, 16, 32, 64)
    for a, b in zip(wide.encoder(x), net.encoder(x), strict=True):
        torch.testing.assert_close(a[:, : b.shape[1]], b, atol=1e-4, rtol=1e-4)
    for wide_up, up in zip(wide.decoder, net.decoder, strict=True):
        assert wide_up.convs[0].conv.weight.shape != up.convs[0].conv.weight.shape
    torch.testing.assert_close(wide(x)[0], net(x)[0], atol=1e-3, rtol=1e-3)


def test_an_anisotropic_plan_into_an_isotropic_one_computes_the_same(tmp_path):
    """1x3x3 kernels in the middle of 3x3x3 ones, where the strides agree."""
    path, net = checkpoint(tmp_path, (4, 32, 64), spacing=(3.0, 1.0, 1.0), depth=1)
    other = net_of((4, 32, 64), spacing=(2.0, 1.0, 1.0), depth=1)
    assert net.encoder.stages[0][0].conv.kernel_size == (1, 3, 3)
    assert other.encoder.stages[0][0].conv.kernel_size == (3, 3, 3)
    load_pretrained(other, path, transfer="all")
    x = torch.randn(1, 1, 4, 32, 64)
    torch.testing.assert_close(other(x)[0], net(x)[0], atol=1e-4, rtol=1e-4)


def test_several_channels_that_are_equal_answer_like_one(tmp_path):
    path, net = checkpoint(tmp_path)
    other = net_of(channels=3)
    report = load_pretrained(other, path)
    x = torch.randn(1, 1, 16, 32, 64)
    for a, b in zip(other.encoder(x.expand(-1, 3, -1, -1, -1)), net.encoder(x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert any(e.reason == "1 to 3 channels of the image" for e in report.entries)


def test_3d_to_2d_answers_slices_of_a_constant_alike(tmp_path):
    path, net = checkpoint(tmp_path, (32, 32, 64), depth=2)
    flat = net_of((32, 64), depth=2)
    load_pretrained(flat, path, transfer="all")
    x = torch.randn(1, 1, 1, 32, 64)
    first_3d = net.encoder.stages[0][0].conv(x.expand(-1, -1, 32, -1, -1))[:, :, 16]
    torch.testing.assert_close(flat.encoder.stages[0][0].conv(x[:, :, 0]), first_3d, atol=1e-4, rtol=1e-4)


def test_too_little_coverage_changes_nothing(tmp_path):
    path, _ = checkpoint(tmp_path, depth=1)
    other = net_of(filters=(64, 128, 256, 320, 320))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(
        WeightsError,
        match=r"w.ckpt .* fills \d % of .* less than the 50 % .* for --encoder unet --filters 8 12 --depth 1: give",
    ):
        load_pretrained(other, path)
    assert all(v.equal(before[k]) for k, v in other.state_dict().items())
    assert load_pretrained(other, path, min_coverage=0.0).encoder_coverage < 0.5


def test_the_flags_of_the_message_rebuild_the_encoder(tmp_path):
    path, _ = checkpoint(tmp_path, filters=(8, 12, 16, 20), depth=3, res_block=True)
    made_for = "--encoder unet --res_block --filters 8 12 16 20 --depth 3"
    with pytest.raises(WeightsError, match=f"it was made for {made_for}: give the same, or lower"):
        load_pretrained(net_of(filters=(32, 64, 128, 256, 320)), path)
    assert load_pretrained(net_of(filters=(8, 12, 16, 20), depth=3, res_block=True), path).encoder_coverage == 1.0


def test_little_of_a_unet_fits_a_resnet_and_the_message_says_so(tmp_path):
    path, _ = checkpoint(tmp_path, filters=(8, 12, 16, 20), depth=3)
    for depth in (3, 5):
        with pytest.raises(WeightsError, match="little of another encoder fits a ResNet; it was made for") as raised:
            load_pretrained(net_of(encoder="resnet10", depth=depth), path)
        assert "--exec_mode pretrain --encoder resnet10" in str(raised.value) and "take --depth" not in str(
            raised.value
        )


def test_batch_statistics_into_moving_ones_take_the_bias_along(tmp_path):
    """A bias before moving statistics goes into their mean."""
    torch.manual_seed(0)
    source = GenesisUNet(GenesisEncoder(dim=2, batch_statistics=False)).eval()
    for m in source.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(m.running_mean)
        if isinstance(m, torch.nn.Conv2d):
            torch.nn.init.normal_(m.bias)
    path = saved(source, tmp_path)
    other = net_of((32, 64), filters=(64, 128, 256, 512), depth=3, norm="batch", negative_slope=0.0).eval()
    report = load_pretrained(other, path, min_coverage=0.2)
    assert len(report.dropped) == 8
    x = torch.randn(1, 1, 32, 64)
    ours, theirs = other.encoder.stages[0][0](x), source.encoder.stages[0][0](x)
    torch.testing.assert_close(ours[:, :32], theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["models_genesis_unet3d", "models_genesis_keras", "semantic_genesis_ynet3d"])
def test_genesis_into_the_hippocampus_plan(reference, name):
    path, _ = reference(name)
    other = net_of((40, 56, 40), filters=None)
    report = load_pretrained(other, path, transfer="all")
    assert report.encoder_coverage > 0.99
    assert torch.isfinite(other(torch.randn(1, 1, 16, 24, 32))[0]).all()


def test_the_keras_twin_into_the_pytorch_network(reference):
    path, arrays = reference("models_genesis_keras")
    net = GenesisUNet(GenesisEncoder(batch_statistics=False, eps=1e-3)).eval()
    report = load_pretrained(net, path, transfer="all", weights_axes="as_stored")
    assert report.coverage == 1.0
    x = torch.from_numpy(arrays["input"])
    with torch.no_grad():
        assert relative_error(net(x)[0].sigmoid(), arrays["output0"]) < 1e-4


def test_nnunet_genesis_into_its_plan(reference):
    path, arrays = reference("genesis_nnunet_luna16")
    net = net_of((64, 128, 128), filters=None, out=2).eval()
    report = load_pretrained(net, path, transfer="all")
    assert report.coverage == pytest.approx(1.0, abs=1e-4)  # but for biases that nnU-Net v1 has not
    assert len(report.dropped) == 22
    x = torch.from_numpy(arrays["input"])
    with torch.no_grad():
        assert relative_error(net(x)[0], arrays["output0"]) < 1e-4


@pytest.mark.parametrize(("settings", "least"), [({}, 0.4), ({"res_block": True}, 0.4), ({"encoder": "genesis"}, 0.1)])
def test_medicalnet_into_any_unet(reference, settings, least):
    path, _ = reference("medicalnet_resnet18A")
    other = net_of((64, 64, 64), **({"filters": None, "depth": 4} | settings))
    report = load_pretrained(other, path, min_coverage=least)
    assert "ResNet-18, shortcut A" in str(report)
    assert torch.isfinite(other(torch.randn(2, 1, 16, 16, 32))[0]).all()


@pytest.mark.parametrize(
    ("name", "encoder"), [("medicalnet_resnet10B", "resnet10"), ("medicalnet_resnet50B", "resnet50")]
)
@torch.no_grad()
def test_medicalnet_into_a_unet_with_its_own_resnet(reference, name, encoder):
    path, arrays = reference(name)
    x = torch.from_numpy(arrays["input"])
    for dilated in (True, False):
        net = net_of((64, 64, 64), encoder=encoder, dilated=dilated, filters=None).eval()
        report = load_pretrained(net, path)
        assert report.encoder_coverage == 1.0
        features = net.encoder(x)
        for i in range(4):  # the first difference is layer3's stride
            same = relative_error(features[i], arrays[f"output{i + 1}"]) < 1e-4 if i < 3 or dilated else None
            assert same in (True, None), i
    assert features[4].shape[2:] == (1, 2, 2)


def test_another_resnet_is_named(reference):
    path, _ = reference("medicalnet_resnet18A")
    with pytest.raises(WeightsError, match=r"ResNet-18 with shortcut A, and .* ResNet-34 .*: give --encoder resnet18"):
        load_pretrained(net_of(encoder="resnet34", filters=None), path)
    with pytest.raises(WeightsError, match="is ResNet-18 with shortcut B: give --encoder resnet18 --shortcut A"):
        load_pretrained(net_of(encoder="resnet18", shortcut="B", filters=None), path)


def test_medicalnet_in_2d_with_several_channels(reference):
    path, _ = reference("medicalnet_resnet10B")
    net = net_of((64, 64), channels=3, encoder="resnet10", filters=None)
    report = load_pretrained(net, path)
    assert report.encoder_coverage == 1.0
    assert any(e.reason == "kernel 7x7x7 to 7x7, 1 to 3 channels of the image" for e in report.entries)


def test_medicalnet_export_comes_back(tmp_path):
    net = MedicalNet(ResNetEncoder(50, shortcut="A", dim=2, dilated=True), 3).eval()
    content, notes = to_medicalnet(net)
    assert notes == []
    torch.save(content, tmp_path / "r.pth", _use_new_zipfile_serialization=False)  # as older PyTorch wrote
    again = rebuild_network(read_weights(tmp_path / "r.pth"))
    x = torch.randn(1, 1, 64, 96)
    torch.testing.assert_close(again(x)[0], net(x)[0])


def test_own_networks_with_a_classification_head_come_back(tmp_path):
    plan, settings = make_plan((16, 32)), choice(filters=FILTERS)
    values = {"plan": plan.to_json(), "network_settings": {"filters": list(FILTERS)}}
    x = torch.randn(2, 1, 16, 32)
    for hidden in (None, 9):
        classifier = build_classifier(plan, settings, 4, hidden=hidden)
        again = rebuild_network(read_weights(saved(classifier, tmp_path, **values)))
        torch.testing.assert_close(again(x), classifier.eval()(x))
    both = build_two_headed(plan, settings, 6, hidden=5)
    again = rebuild_network(read_weights(saved(both, tmp_path, **values)))
    for a, b in zip(again(x), both.eval()(x), strict=True):
        torch.testing.assert_close(a, b)
    report = load_pretrained(build_two_headed(plan, settings, 9, hidden=5), saved(both, tmp_path), transfer="all")
    assert report.new == {"head.linear.weight", "head.linear.bias"}
    assert report.encoder_coverage == 1.0
    segmentation = build_network(plan, settings)  # from pre-training to segmentation
    assert load_pretrained(segmentation, saved(both, tmp_path, **values)).encoder_coverage == 1.0


def test_weights_without_a_plan_cannot_be_rebuilt(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no plan: give a .ckpt file"):
        rebuild_network(read_weights(saved(net_of(), tmp_path)))


def test_a_missing_file_is_named_at_once_where_it_alone_tells_the_network():
    assert TransferSettings.implied({"pretrained": "missing.pth"}) == {}
    with pytest.raises(WeightsError, match=r"missing\.pth does not exist"):
        TransferSettings.implied({"pretrained": "missing.pth", "conv_seg": True})
