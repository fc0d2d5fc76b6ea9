"""Every mode of main.py with a ResNet encoder, and checkpoints of MedicalNet's own segmentation network."""

import json
import os
import re

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

import main
import nets.encoders.resnet
import preprocess
from cli.run import run_command
from data_preprocessing.phantom import Phantom, write_dataset
from nets.encoders.resnet import ResNetEncoder
from nets.medicalnet import MedicalNet
from nets.weights.export import to_medicalnet
from nets.weights.reading import read_weights
from scripts.export import main as export

RESNET = ["--encoder", "resnet18", "--shortcut", "A"]
SMALL = "--gpus 0 --filters 4 8 8 8 8 8 --num_workers 0 --steps_per_epoch 2 --nfolds 3 --mirror_axes 2".split()


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """An eighth of the published widths: the same code in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets.encoders.resnet, "WIDTHS", (8, 16, 32, 64))
        yield


def run(*argv):
    """main.py in this process; its exit status, or its message."""
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: main.main([str(value) for value in argv]))
    return exit_.value.code


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Six labelled and two test scans, without voxels of 0, and a list of two of them."""
    folder = tmp_path_factory.mktemp("phantom") / "Task91_Phantom"
    write_dataset(folder, Phantom(shape_dhw=(16, 24, 20), seed=3), cases=6)
    for path in [*(folder / "imagesTr").iterdir(), *(folder / "imagesTs").iterdir()]:
        scan = nibabel.load(path)
        values = scan.get_fdata(dtype=np.float32)
        nibabel.save(nibabel.Nifti1Image(values - values.min() + 1, scan.affine), path)
    names = sorted(path.name for path in (folder / "imagesTr").iterdir())[:2]
    (folder / "val.txt").write_text("".join(f"imagesTr/{name} labelsTr/{name}\n" for name in names))
    return folder


@pytest.fixture(scope="module")
def cases(dataset):
    assert preprocess.main(["--dataset", str(dataset), "--results", str(dataset.parent), "--n_jobs", "1"]) == 0
    return dataset.parent / "Task91_Phantom_3d"


def published(path, depth, shortcut, classes=3):
    """A checkpoint as MedicalNet's training writes it, of a network with random weights."""
    torch.manual_seed(depth)
    net = MedicalNet(ResNetEncoder(depth, shortcut=shortcut, dilated=True), classes)
    content, _ = to_medicalnet(net)
    more = {"ecpoch": 3, "batch_id": 7, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(content | more, path, _use_new_zipfile_serialization=depth != 34)  # most of theirs are older than zip
    return net.eval()


@pytest.fixture(scope="module")
def trained(cases, tmp_path_factory):
    """Results of two epochs from published weights, the encoder read off the file."""
    results = tmp_path_factory.mktemp("results")
    published(results / "resnet_18.pth", 18, "A")
    flags = ["--preset", "medicalnet", "--epochs", 2, "--pretrained", results / "resnet_18.pth"]
    assert run("--data", cases, "--results", results, *SMALL, *flags) == 0
    return results


def checkpoint(results):
    return torch.load(results / "checkpoints" / "last.ckpt", weights_only=True)


def test_depth_and_shortcut_come_from_the_file_and_new_layers_learn_faster(trained):
    content = checkpoint(trained)
    assert content["network_settings"]["encoder"] == "resnet18"
    assert content["network_settings"]["shortcut"] == "A"
    old, new = content["optimizer_states"][0]["param_groups"]
    assert old["initial_lr"] == pytest.approx(0.001)
    assert new["initial_lr"] == pytest.approx(0.1)
    assert new["lr"] == pytest.approx(0.1 * 0.99**2)
    assert (old["momentum"], old["weight_decay"], old["nesterov"]) == (0.9, 0.001, False)
    assert content["new_layers"]
    assert not any(name.startswith("encoder.") for name in content["new_layers"])
    assert "100.0 %  encoder.stages.4.1.convs.1.conv.weight: the same shape" in (trained / "pretrained.txt").read_text()


def test_resumed_training_is_that_of_a_whole_run(cases, trained, tmp_path):
    flags = ["--data", cases, *SMALL, "--optimizer", "sgd", "--learning_rate", 0.001, "--new_layer_lr_mult", 10]
    start = [*RESNET, "--pretrained", trained / "resnet_18.pth"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*flags, *start, "--results", whole, "--epochs", 2) == 0
    assert run(*flags, *start, "--results", broken, "--epochs", 1) == 0
    assert run(*flags, *RESNET, "--results", broken, "--epochs", 2, "--resume_training") == 0
    final = [checkpoint(results)["state_dict"] for results in (whole, broken)]
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])
    assert "--shortcut A" in run(
        *flags, "--encoder", "resnet18", "--results", broken, "--epochs", 3, "--resume_training"
    )


def test_the_published_network_is_fine_tuned(dataset, tmp_path, capsys):
    """Its own recipe and loss; then resumed, evaluated, predicted with, and exported for MedicalNet's programs."""
    list_file = dataset / "train.txt"
    names = sorted(path.name for path in (dataset / "imagesTr").iterdir())
    list_file.write_text("".join(f"imagesTr/{name} labelsTr/{name}\n" for name in names))
    flags = ["--dataset", list_file, "--recipe", "medicalnet", "--patch_size", 16, 32, 24, "--n_jobs", 1]
    assert preprocess.main([str(value) for value in [*flags, "--results", tmp_path]]) == 0
    (folder,) = (path.parent for path in tmp_path.glob("*/plan.json"))
    net, results = published(tmp_path / "resnet_18.pth", 18, "A"), tmp_path / "results"
    flags = "--gpus 0 --num_workers 0 --steps_per_epoch 2 --nfolds 3 --preset medicalnet_conv_seg".split()
    flags += ["--data", folder, "--pretrained", tmp_path / "resnet_18.pth"]
    assert run(*flags, "--results", results, "--epochs", 1) == 0
    first = checkpoint(results)
    assert first["new_layers"] == sorted(n for n, _ in net.named_parameters() if "conv_seg" in n)
    assert [g["initial_lr"] for g in first["optimizer_states"][0]["param_groups"]] == pytest.approx([0.001, 0.1])
    assert run(*flags, "--results", results, "--epochs", 2, "--resume_training") == 0
    assert run(*flags, "--results", tmp_path / "whole", "--epochs", 2) == 0
    again, whole = checkpoint(results)["state_dict"], checkpoint(tmp_path / "whole")["state_dict"]
    assert set(whole) == {f"network.{name}" for name in net.state_dict()}
    assert all(torch.equal(again[name], whole[name]) for name in whole)

    ready = ["--ckpt_path", results / "checkpoints" / "last.ckpt", "--gpus", 0, "--results", tmp_path / "out"]
    assert run("--exec_mode", "evaluate", "--data", folder, "--nfolds", 3, *ready) == 0
    capsys.readouterr()
    assert run("--exec_mode", "evaluate", "--img_list", list_file, *ready) == 0
    ours = re.search(r"Dice (\S+) over 6 cases", capsys.readouterr().out)[1]
    assert run("--exec_mode", "predict", "--input", dataset / "imagesTs", *ready, "--tta") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
    out = tmp_path / "epoch_2.pth.tar"
    assert export(["--ckpt_path", str(ready[1]), "--to", "medicalnet", "--out", str(out)]) == 0
    assert "main.py evaluates and predicts with it under --patch_size 16 32 24" in capsys.readouterr().out
    theirs = ["--ckpt_path", out, "--gpus", 0, "--results", tmp_path / "theirs", "--patch_size", 16, 32, 24]
    assert run("--exec_mode", "evaluate", "--img_list", list_file, *theirs) == 0
    same = re.search(r"Dice (\S+) over 6 cases", capsys.readouterr().out)[1]
    assert float(ours) == pytest.approx(float(same), abs=1.0)  # resized once more on the way, by way of the patch
    assert run(*flags, "--results", tmp_path / "no", "--brats") == 2
    assert "--conv_seg is for a segmentation of classes" in capsys.readouterr().err


def test_evaluate_predict_and_export(dataset, cases, trained, tmp_path, capsys):
    ready = ["--ckpt_path", trained / "checkpoints" / "last.ckpt", "--gpus", 0, "--results", tmp_path]
    assert run("--exec_mode", "evaluate", "--data", cases, "--nfolds", 3, *ready, "--amp", "--layout", "NDHWC") == 0
    assert run("--exec_mode", "predict", "--input", dataset / "imagesTs", *ready, "--tta") == 0
    for source in (dataset / "imagesTs").iterdir():
        label = nibabel.load(tmp_path / source.name)
        assert label.shape == nibabel.load(source).shape
        assert set(np.unique(label.dataobj)) <= {0, 1, 2}
    assert run("--exec_mode", "evaluate", "--img_list", dataset / "val.txt", *ready) == 0
    assert re.search(r"Dice \d+\.\d\d over 2 cases \(organ \d+\.\d\d, lesion", capsys.readouterr().out)
    out = tmp_path / "resnet_18.pth"
    assert export(["--ckpt_path", str(ready[1]), "--to", "medicalnet", "--out", str(out)]) == 0
    assert read_weights(out).resnet == (18, "A")
    stem = checkpoint(trained)["state_dict"]["network.encoder.stages.0.0.conv.weight"]
    assert torch.equal(torch.load(out, weights_only=True)["state_dict"]["module.conv1.weight"], stem)


def test_every_option_of_the_plain_encoder_runs_with_a_resnet(cases, tmp_path):
    flags = [*RESNET, "--dilated", "--checkpoint_activations", "--deep_supervision", "--amp", "--layout", "NDHWC"]
    assert run("--data", cases, "--results", tmp_path, *SMALL, *flags, "--epochs", 1, "--ema", 0.5) == 0
    settings = checkpoint(tmp_path)["network_settings"]
    assert settings["dilated"]
    assert settings["checkpoint_activations"]


def test_2d_network_takes_3d_weights(dataset, trained, tmp_path):
    flags = ["--dataset", dataset, "--results", tmp_path, "--n_jobs", 1, "--dim", 2]
    assert preprocess.main([str(flag) for flag in flags]) == 0
    flat = ["--data", tmp_path / "Task91_Phantom_2d", "--dim", 2, "--gpus", 0, "--results", tmp_path]
    small = ["--filters", *[8] * 6, "--num_workers", 0, "--steps_per_epoch", 2, "--nfolds", 3, "--batch_size", 8]
    assert run(*flat, *small, "--pretrained", trained / "resnet_18.pth", "--epochs", 1) == 0
    assert "kernel 7x7x7 to 7x7" in (tmp_path / "pretrained.txt").read_text()
    ready = ["--dim", 2, "--gpus", 0, "--ckpt_path", tmp_path / "checkpoints" / "last.ckpt"]
    assert run("--exec_mode", "predict", *ready, "--input", dataset / "imagesTs", "--results", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2


def test_pretrain_and_classify(cases, tmp_path):
    flags = ["--data", cases, "--results", tmp_path, *SMALL[:-2], *RESNET, "--epochs", 1, "--batch_size", 2]
    assert run("--exec_mode", "pretrain", *flags) == 0
    table = tmp_path / "classes.csv"
    table.write_text("case,label\n" + "".join(f"phantom_{i:03d},{i % 2}\n" for i in range(6)))
    classify = ["--kind", "classification", "--labels_csv", table, "--hidden", 8, "--new_layer_lr_mult", 10]
    start = ["--pretrained", tmp_path / "checkpoints" / "last.ckpt", "--ckpt_store_dir", tmp_path / "classifier"]
    assert run(*flags, *classify, *start) == 0
    content = checkpoint(tmp_path / "classifier")
    assert len(content["optimizer_states"][0]["param_groups"]) == 2
    assert set(content["new_layers"]) == {
        f"head.{name}" for name in ("dense.0.weight", "dense.0.bias", "linear.weight", "linear.bias")
    }


def as_published(net, path, size):
    """Label map of a scan by SciPy's zoom, on an array whose first axis is the depth."""
    scan = nibabel.load(path).get_fdata(dtype=np.float32)
    small = ndimage.zoom(scan, [new / old for new, old in zip(size, scan.shape, strict=True)], order=0)
    small = (small - small.mean()) / small.std()  # no voxel is 0 or below
    with torch.no_grad():
        scores = net.decode(net.skips(torch.from_numpy(small)[None, None]))[0].softmax(1)[0].numpy()
    factors = [1, *(new / old for new, old in zip(scan.shape, scores.shape[1:], strict=True))]
    return ndimage.zoom(scores, factors, order=1).argmax(0)


@pytest.mark.parametrize(("depth", "shortcut"), [(10, "B"), (34, "A")])
def test_a_published_checkpoint_is_evaluated_as_published(dataset, tmp_path, capsys, depth, shortcut):
    size = (24, 32, 40)
    net = published(tmp_path / "epoch_3.pth.tar", depth, shortcut)
    flags = ["--ckpt_path", tmp_path / "epoch_3.pth.tar", "--gpus", 0, "--results", tmp_path, "--patch_size", *size]
    assert run("--exec_mode", "evaluate", "--img_list", dataset / "val.txt", *flags) == 0
    out = capsys.readouterr().out
    assert "Scans are resized to 24x32x40 (D, H, W); --patch_size D H W where" in out
    shown = re.search(r"Dice (\S+) over 2 cases \(class 1 (\S+), class 2 (\S+)\)", out)
    printed = [float(value) for value in shown.groups()]
    logged = json.loads((tmp_path / "logs.json").read_text().splitlines()[-1][5:])
    assert logged["step"] == []
    assert [logged["data"][name] for name in ("Dice", "D1", "D2")] == pytest.approx(printed, abs=0.005)
    dice = []
    for name in ("phantom_000.nii.gz", "phantom_001.nii.gz"):
        expected = as_published(net, dataset / "imagesTr" / name, size)
        written = np.asarray(nibabel.load(tmp_path / "predictions_epoch_3.pth_task=None_fold=0" / name).dataobj)
        assert (written == expected).mean() > 0.999
        assert len(np.unique(expected)) > 1
        true = np.asarray(nibabel.load(dataset / "labelsTr" / name).dataobj)
        dice.append(
            [200 * np.sum((expected == c) & (true == c)) / np.sum((expected == c) * 1 + (true == c)) for c in (1, 2)]
        )
    assert printed[1:] == pytest.approx(np.mean(dice, axis=0), abs=0.2)
    assert run("--exec_mode", "predict", "--input", dataset / "imagesTs", *flags) == 0
    source = next((dataset / "imagesTs").iterdir())
    written = nibabel.load(tmp_path / source.name)
    np.testing.assert_allclose(written.affine, nibabel.load(source).affine)
    assert (np.asarray(written.dataobj) == as_published(net, source, size)).mean() > 0.999


def test_bad_input_gets_one_message_and_runs_no_code(dataset, cases, trained, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    files = {name: tmp_path / f"{name}.pth" for name in ("junk", "module", "evil", "other", "headless", "empty")}
    files["junk"].write_bytes(b"no checkpoint at all")
    files["empty"].write_bytes(b"")
    torch.save(torch.nn.Conv3d(1, 1, 1), files["module"])
    torch.save({"state_dict": Evil()}, files["evil"])
    torch.save({"state_dict": {"features.0.weight": torch.zeros(3, 3)}}, files["other"])
    net = MedicalNet(ResNetEncoder(10, dilated=True))
    state = {k: v for k, v in to_medicalnet(net)[0]["state_dict"].items() if "conv_seg" not in k}
    torch.save({"state_dict": state}, files["headless"])
    evaluate = ["--exec_mode", "evaluate", "--gpus", 0, "--results", tmp_path, "--img_list", dataset / "val.txt"]
    train = ["--data", cases, "--results", tmp_path, *SMALL, "--epochs", 1]
    faults = {
        "junk": "junk.pth is no checkpoint, or a damaged one",
        "empty": "empty.pth is no checkpoint, or a damaged one",
        "module": "module.pth holds Python objects (torch.nn.modules.conv.Conv3d), not weights alone; nothing of it",
        "evil": "evil.pth holds Python objects (posix.mkdir), not weights alone; nothing of it was run",
        "other": "other.pth holds weights of an unknown network (keys such as features.0.weight): known are",
    }
    for name, message in faults.items():
        for found in (run(*evaluate, "--ckpt_path", files[name]), run(*train, "--pretrained", files[name])):
            assert message in found
            assert "\n" not in found
    assert not (tmp_path / "owned").exists()
    assert "ResNet-10, shortcut B) is no whole network" in run(*evaluate, "--ckpt_path", files["headless"])
    wrong = run(*train, "--pretrained", trained / "resnet_18.pth", "--encoder", "resnet34")
    assert "holds ResNet-18 with shortcut A" in wrong
    assert "give --encoder resnet18 --shortcut A" in wrong
    unlisted = tmp_path / "bad.txt"
    unlisted.write_text("imagesTr/phantom_000.nii.gz labelsTr/phantom_000.nii.gz 3\n")
    evaluate[-1] = unlisted
    assert "bad.txt, line 1" in run(*evaluate, "--ckpt_path", trained / "checkpoints" / "last.ckpt")
