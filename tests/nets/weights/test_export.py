import sys
from pathlib import Path

import pytest
import torch

from nets.build import build_network
from nets.weights.export import to_medicalnet, to_nnunet_v1, to_nnunet_v2
from nets.weights.files import WeightsError
from nets.weights.matching import load_pretrained
from nets.weights.reading import read_weights
from nets.weights.rebuild import rebuild_network
from tests.nets.made_plans import choice, make_plan

FILTERS = (8, 12, 16, 20, 24, 24)


def net_of(patch=(8, 32, 64), spacing=(3.0, 1.0, 1.0), **settings):
    torch.manual_seed(0)
    net = build_network(make_plan(patch, spacing=spacing), choice(**{"filters": FILTERS} | settings))
    for parameter in net.parameters():  # no bias at 0, no norm at 1
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return net.eval()


def nnunet_v2(net, architecture="PlainConvUNet", **kwargs):
    """nnU-Net's own network of the same stages."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    dim, encoder = net.dim, net.encoder
    conv, norm = (torch.nn.Conv2d, torch.nn.InstanceNorm2d) if dim == 2 else (torch.nn.Conv3d, torch.nn.InstanceNorm3d)
    return getattr(unet, architecture)(
        input_channels=encoder.in_channels,
        n_stages=len(encoder.channels),
        features_per_stage=list(encoder.channels),
        conv_op=conv,
        kernel_sizes=[list(stage[0].conv.kernel_size) for stage in encoder.stages],
        strides=[list(s) for s in encoder.strides],
        num_classes=3,
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
        **kwargs,
    ).eval()


@pytest.mark.parametrize(("patch", "spacing"), [((8, 32, 64), (3.0, 1.0, 1.0)), ((32, 64), (1.0, 1.0, 1.0))])
@torch.no_grad()
def test_nnunet_v2_takes_the_export_and_gives_it_back(tmp_path, patch, spacing):
    net = net_of(patch, spacing)
    content, notes = to_nnunet_v2(net)
    assert notes == [
        f"{len(net.decoder) - 1} heads below full resolution, which this network has not, are written as 0"
    ]
    theirs = nnunet_v2(net, n_conv_per_stage=2, n_conv_per_stage_decoder=2)
    theirs.load_state_dict(content["network_weights"])
    x = torch.randn(2, 1, *patch)
    torch.testing.assert_close(theirs(x), net(x)[0], atol=1e-4, rtol=1e-4)

    for parameter in theirs.parameters():  # their own training moves everything, biases too
        parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": theirs.state_dict(), "trainer_name": "nnUNetTrainer", "init_args": {}}, path)
    fresh = net_of(patch, spacing)
    report = load_pretrained(fresh, path, transfer="all")
    assert report.coverage == 1.0
    torch.testing.assert_close(fresh(x)[0], theirs(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rebuild_network(read_weights(path))(x)[0], theirs(x), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_residual_nnunet_fills_residual_blocks(tmp_path):
    net = net_of(res_block=True)
    plain = net_of()
    theirs = nnunet_v2(
        plain,
        "ResidualEncoderUNet",
        n_blocks_per_stage=[1, 3, 4, 6, 6],
        n_conv_per_stage_decoder=1,
    )
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": theirs.state_dict()}, path)
    report = load_pretrained(net, path, transfer="all")
    assert report.encoder_coverage > 0.9
    assert report.coverage > 0.7
    assert torch.isfinite(net(torch.randn(1, 1, 8, 32, 64))[0]).all()
    with pytest.raises(WeightsError, match="another encoder than two convolutions a stage"):
        rebuild_network(read_weights(path))


@torch.no_grad()
def test_nnunet_v1_comes_back_equal(tmp_path):
    net = net_of(bias=False)
    content, notes = to_nnunet_v1(net)
    assert len(notes) == 1
    torch.save(content, tmp_path / "model_final_checkpoint.model")
    again = rebuild_network(read_weights(tmp_path / "model_final_checkpoint.model"))
    assert again.decoder[0].convs[0].conv.kernel_size == again.encoder.stages[1][0].conv.kernel_size
    x = torch.randn(1, 1, 8, 32, 64)
    torch.testing.assert_close(again(x)[0], net(x)[0], atol=1e-4, rtol=1e-4)
    with_bias = to_nnunet_v1(net_of())[1]
    assert any("nnU-Net v1 has no decoder.0.up.bias: left out, largest value" in note for note in with_bias)


def test_nnunet_v1_names_are_the_published_ones(reference):
    path, _ = reference("genesis_nnunet_luna16")
    published = torch.load(path, weights_only=True)["state_dict"]
    state = to_nnunet_v1(rebuild_network(read_weights(path)))[0]["state_dict"]
    assert set(state) == set(published)
    assert all(state[k].equal(v) for k, v in published.items() if not k.endswith("conv.bias"))


def test_medicalnet_names_are_the_published_ones(reference):
    for name in ("medicalnet_resnet10B", "medicalnet_resnet18A", "medicalnet_resnet50B"):
        path, _ = reference(name)
        published = torch.load(path, weights_only=True)["state_dict"]
        state = to_medicalnet(rebuild_network(read_weights(path)))[0]["state_dict"]
        assert set(state) == set(published)
        assert all(state[k].equal(v) for k, v in published.items())


def test_networks_that_do_not_fit_are_refused():
    for settings in ({"res_block": True}, {"encoder": "resnet10"}, {"norm": "batch"}):
        with pytest.raises(WeightsError, match="nnU-Net v2 cannot hold this network"):
            to_nnunet_v2(net_of(**settings))
    with pytest.raises(WeightsError, match="this network has another encoder"):
        to_medicalnet(net_of())


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "scripts"))
    import export as command

    net, plan = net_of(), make_plan((8, 32, 64), spacing=(3.0, 1.0, 1.0))
    content = {"plan": plan.to_json(), "network_settings": {"filters": FILTERS}}
    torch.save({"state_dict": {f"network.{k}": v for k, v in net.state_dict().items()}} | content, tmp_path / "w.ckpt")
    out = tmp_path / "deep" / "pretrained.pth"
    assert command.main(["--ckpt_path", str(tmp_path / "w.ckpt"), "--to", "nnunet_v2", "--out", str(out)]) == 0
    assert f"{out} written" in capsys.readouterr().out
    again = rebuild_network(read_weights(out))
    x = torch.randn(1, 1, 8, 32, 64)
    torch.testing.assert_close(again(x)[0], net(x)[0], atol=1e-4, rtol=1e-4)
    assert command.main(["--ckpt_path", str(tmp_path / "no.ckpt"), "--to", "nnunet_v1", "--out", str(out)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    sys.modules.pop("export")
