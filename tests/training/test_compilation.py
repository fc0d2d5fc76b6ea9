"""``--compile`` changes the speed of training steps, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from cases.plan import Plan
from cases.settings import SettingsError
from cli.modes import PROGRAM
from nets.encoders.resnet import ResNetEncoder
from training.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
FLAGS = "--gpus 0 --amp --layout NDHWC --filters 4 8 --depth 1 --deep_supervision --ema 0.5 --nfolds 2".split()
FLAGS += "--num_workers 0 --batch_size 2 --steps_per_epoch 2".split()
MakeFolder = Callable[..., tuple[Path, Plan, list[str]]]

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


def train(folder: Path, results: Path, *flags: object) -> int:
    return main.main([str(value) for value in ("--data", folder, "--results", results, *FLAGS, *flags)])


def train_compiled(folder: Path, results: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """An epoch in a process of its own, so that nothing compiled stays in the one that other tests share."""
    command = [sys.executable, "main.py", "--data", folder, "--results", results, *FLAGS, "--epochs", 1, "--compile"]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=variables, capture_output=True, text=True, encoding="utf-8", timeout=300
    )


def log(results: Path) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line.removeprefix("DLLL ")) for line in (results / "logs.json").read_text().splitlines()]
    return {line["step"]: line["data"] for line in lines if line["type"] == "LOG" and line["step"] != "PARAMETER"}


@needs_compiler
def test_a_compiled_run_learns_the_same_and_resumes_without(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, _, _ = make_folder(4)
    a, b = tmp_path / "compiled", tmp_path / "plain"
    done = train_compiled(folder, a)
    assert done.returncode == 0, done.stderr[-2000:]
    assert train(folder, b, "--epochs", 1) == 0
    assert log(a)[0]["Train Loss"] == pytest.approx(log(b)[0]["Train Loss"], rel=2e-3)
    ours, theirs = (read_checkpoint(results / "checkpoints" / "last.ckpt").weights for results in (a, b))
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=4e-3) for name in ours)  # a few steps of AdamW's size
    for results in (a, b):
        assert train(folder, results, "--epochs", 2, "--resume_training") == 0
    assert log(a)[1]["Train Loss"] == pytest.approx(log(b)[1]["Train Loss"], rel=5e-3)
    assert log(a)[1]["Val Loss"] == pytest.approx(log(b)[1]["Val Loss"], rel=5e-3)


def test_without_a_compiler_the_message_names_the_flag(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, _, _ = make_folder(4)
    missing = {"CXX": str(tmp_path / "c++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = train_compiled(folder, tmp_path / "results", **missing)
    assert done.returncode == 1
    assert "could not compile the network: leave out --compile (InvalidCxxCompiler" in done.stderr
    assert "Traceback" not in done.stderr


def test_recomputed_activations_count_a_batch_once() -> None:
    """Traced by torch.compile, without its code generation."""
    torch.manual_seed(0)
    x = torch.randn(2, 1, 16, 24, 32)
    results = []
    for forward in (lambda net: net, lambda net: torch.compile(net.forward, backend="aot_eager", dynamic=False)):
        torch.manual_seed(0)
        net = ResNetEncoder(10, checkpoint_activations=True)
        sum(feature.square().mean() for feature in forward(net)(x)).backward()
        results.append((net.state_dict(), [p.grad for p in net.parameters()]))
    torch.compiler.reset()
    (state, gradients), (compiled_state, compiled_gradients) = results
    torch.testing.assert_close(compiled_state, state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(compiled_gradients, gradients, atol=1e-4, rtol=1e-3)


def test_compilation_is_for_training() -> None:
    with pytest.raises(SettingsError, match="--compile is for --exec_mode pretrain and train"):
        PROGRAM.read(["--exec_mode", "predict", "--ckpt_path", "c.ckpt", "--compile"])
