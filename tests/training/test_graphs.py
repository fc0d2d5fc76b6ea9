"""``--cuda_graphs`` changes the speed of training steps, and nothing else.

Where there is no GPU, a recorder stands in for CUDA's graphs: it keeps the operators of a capture with the very tensors
that they read and wrote, and replays them into the same memory, as a graph does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from cases.plan import Plan
from inference.sliding_window import SlidingWindow
from nets.build import build_network
from nets.dynamic_unet import NetworkSettings, SegmentationNetworkSettings
from pretraining.restoration import RestorationModule
from pretraining.semantic.module import SemanticModule
from tests.conftest import make_plan
from training.compilation import CompiledSteps, CompileSettings
from training.fitting import build_trainer
from training.graphs import GraphedLoss, GraphedSteps
from training.learning import LearningModule, TrainingError
from training.losses.dice_ce import DiceCrossEntropy
from training.optimization import OptimizationSettings
from training.segmentation import SegmentationModule

STEPS = 4
SMALL: dict[str, Any] = {"depth": 1, "filters": (4, 8)}
Batch = dict[str, Tensor]


class Recorder(TorchDispatchMode):
    """What a graph is to a GPU: the operators of a capture, run again on the same memory."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events
        self.calls: list[tuple[Any, Any, Any, list[Any]]] = []
        self.given: dict[int, tuple[Tensor, Tensor]] = {}  # what was there before, and its values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = {id(tensor) for _, _, _, results in self.calls for tensor in results}
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and id(tensor) not in made | self.given.keys():
                self.given[id(tensor)] = tensor, tensor.detach().clone()
        result = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, tree_leaves(result)))
        return result

    def undo(self) -> None:
        """A capture computes nothing: what it changed is as before."""
        for tensor, value in self.given.values():
            tensor.data.copy_(value)  # unseen by autograd, which may need it for gradients

    def pool(self) -> str:
        return "the forward graph's memory"

    def replay(self) -> None:
        self.events.append("replay")
        with torch.no_grad():
            for func, args, kwargs, results in self.calls:
                again = tree_leaves(func(*args, **kwargs))
                for kept, value in zip(results, again, strict=True):
                    if isinstance(kept, Tensor) and kept.data_ptr() != value.data_ptr():
                        kept.copy_(value)


class Stream:
    def __init__(self, events: list[str]) -> None:
        self.events = events

    def wait_stream(self, other: Stream) -> None:
        self.events.append("wait")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA's graphs and streams, made of the CPU; what happened, in order."""
    happened: list[str] = []

    @contextmanager
    def capture(graph: Recorder, *, stream: Stream, capture_error_mode: str, pool: Any = None) -> Iterator[None]:
        assert capture_error_mode == "thread_local"  # DALI's threads allocate meanwhile
        happened.append(f"capture {pool or 'anew'}")
        with graph:
            yield
        graph.undo()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Recorder(happened))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(happened))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(happened))
    return happened


def segmentation(plan: Plan, device: str = "cpu", **network: Any) -> SegmentationModule:
    torch.manual_seed(0)
    settings = SegmentationNetworkSettings(**(SMALL | network))
    net = build_network(plan, settings, out_channels=plan.n_class)
    windows = SlidingWindow(patch_size=plan.patch_size)
    return SegmentationModule(plan, net, settings, windows=windows, loss=DiceCrossEntropy()).to(device)


def batches(plan: Plan, number: int, device: str = "cpu") -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, *plan.patch_size)
    made = []
    for _ in range(number):
        image = torch.randn(shape, generator=generator)
        label = torch.randint(0, plan.n_class, shape, generator=generator, dtype=torch.uint8)
        classes = torch.randint(0, 5, (2,), generator=generator)
        batch = {"image": image, "label": label, "target": torch.rand(shape, generator=generator), "class": classes}
        made.append({name: value.to(device) for name, value in batch.items()})
    return made


def learn(
    module: LearningModule, given: list[Batch], step: Callable[[Batch], Tensor], scale: float = 1.0
) -> list[float]:
    """Steps in Lightning's order: forward, gradients dropped, backward, clipping, a learning rate of its own."""
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for number, batch in enumerate(given):
        loss = step(batch)
        optimizer.zero_grad()
        (loss * scale).backward()
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.grad /= scale
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 0.01 / (number + 1)
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]  # read at the end: each is a number of its own


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("network", [{"deep_supervision": True}, {"norm": "batch"}], ids=["instance", "batch"])
def test_replayed_steps_learn_the_same(events: list[str], network: dict[str, Any], scale: float) -> None:
    plan = make_plan((8, 12, 16))
    plain, graphed = segmentation(plan, **network), segmentation(plan, **network)
    given = batches(plan, STEPS)
    expected = learn(plain, given, plain.training_loss, scale)
    losses = learn(graphed, given, GraphedLoss(graphed.training_loss, graphed.network), scale)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert len(set(losses)) == STEPS
    torch.testing.assert_close(graphed.state_dict(), plain.state_dict())  # a batch norm's statistics too
    before = ["wait", "wait", "capture anew", "capture the forward graph's memory"]
    assert events == before + ["replay"] * (2 * STEPS)


def test_the_frozen_decoder_of_semantic_genesis_gets_no_gradient(events: list[str]) -> None:
    plan = make_plan((8, 12, 16))
    torch.manual_seed(0)
    settings = NetworkSettings(**SMALL, norm="batch")
    plain = SemanticModule(plan, settings, n_class=5, exp="en")
    graphed = deepcopy(plain)
    given = batches(plan, STEPS)
    expected = learn(plain, given, plain.training_loss)
    assert learn(graphed, given, GraphedLoss(graphed.training_loss, graphed.network)) == pytest.approx(expected)
    torch.testing.assert_close(graphed.state_dict(), plain.state_dict())
    assert all(p.grad is None for p in graphed.network.net.decoder.parameters())


def test_a_batch_of_another_shape_is_computed_plainly(events: list[str]) -> None:
    plan = make_plan((8, 12, 16))
    module = segmentation(plan)
    step = GraphedLoss(module.training_loss, module.network)
    first, last = batches(plan, 2)
    last = {name: value[:1] for name, value in last.items()}
    step(first)
    replays = events.count("replay")
    loss = step(last)
    torch.testing.assert_close(loss, module.training_loss(last))
    assert loss.grad_fn is not None
    assert events.count("replay") == replays
    other = first | {"image": first["image"].double()}
    assert not step._captured.takes(other)  # type: ignore[union-attr]


def test_what_cannot_be_captured_is_said(events: list[str]) -> None:
    module = segmentation(make_plan((8, 12, 16)))

    def loss(batch: Batch) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    message = r"cannot be captured .*: leave out --cuda_graphs \(operation not permitted when stream is capturing\)"
    with pytest.raises(TrainingError, match=message):
        GraphedLoss(loss, module.network)(batches(module.plan, 1)[0])


def test_the_trainers_steps_are_those_of_the_graph(
    events: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lightning's own loop, with its order of forward, zero_grad and backward, clipping, schedule and log."""
    plan = make_plan((8, 12, 16))
    cpu: dict[str, Any] = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": "32-true",
    }  # fmt: skip
    monkeypatch.setattr(GraphedSteps, "on_fit_start", lambda self, trainer, module: graph(module))

    def graph(module: LearningModule) -> None:
        module.graphed = GraphedLoss(module.training_loss, module.network)

    seen = []
    for callbacks in ([], [GraphedSteps()]):
        torch.manual_seed(0)
        optimization = OptimizationSettings(gradient_clip_val=1.0, scheduler="cosine")
        module = RestorationModule(plan, NetworkSettings(**SMALL), optimization=optimization)
        trainer = build_trainer(cpu, "disabled", tmp_path, callbacks, max_epochs=2, gradient_clip_val=1.0)
        trainer.fit(module, train_dataloaders=DataLoader(batches(plan, STEPS), batch_size=None))  # type: ignore[arg-type]
        seen.append((trainer.callback_metrics["train_loss"].item(), module.state_dict()))
        assert module.graphed is None  # whose memory is free again
    torch.testing.assert_close(seen[1], seen[0])
    assert events.count("replay") == 2 * 2 * STEPS


def test_where_graphs_are_refused() -> None:
    module = segmentation(make_plan((8, 12, 16)))
    one: Any = SimpleNamespace(world_size=1)
    with pytest.raises(TrainingError, match="--cuda_graphs is for a GPU: leave it out on the CPU"):
        GraphedSteps().on_fit_start(one, module)
    module._device = torch.device("cuda", 0)
    with pytest.raises(TrainingError, match="--cuda_graphs is for one GPU"):
        GraphedSteps().on_fit_start(SimpleNamespace(world_size=2), module)  # type: ignore[arg-type]
    GraphedSteps().on_fit_start(one, module)
    assert module.graphed is not None

    class Own(SegmentationModule):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return self.training_loss(batch)

    module.__class__ = Own
    with pytest.raises(TrainingError, match="Own has a training step of its own"):
        GraphedSteps().on_fit_start(one, module)


def test_the_flag() -> None:
    assert [type(c) for c in CompileSettings(cuda_graphs=True).callbacks()] == [GraphedSteps]
    assert [type(c) for c in CompileSettings(compile=True).callbacks()] == [CompiledSteps]
    with pytest.raises(TrainingError, match="give --compile or --cuda_graphs, not both"):
        CompileSettings(compile=True, cuda_graphs=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", ["NCDHW", "NDHWC"])
@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.float16, 1024.0)])
@pytest.mark.parametrize(
    "network",
    [{"deep_supervision": True}, {"norm": "batch"}, {"encoder": "resnet10", "filters": None}],
    ids=["instance", "batch", "resnet"],
)
def test_graphed_steps_learn_the_same_on_a_gpu(
    network: dict[str, Any], dtype: torch.dtype, scale: float, layout: str
) -> None:
    plan = make_plan((16, 32, 32))
    given = batches(plan, STEPS, "cuda")
    seen = []
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        for graphed in (False, True):
            module = segmentation(plan, "cuda", layout=layout, **network)
            step = GraphedLoss(module.training_loss, module.network) if graphed else module.training_loss
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
                losses = learn(module, given, step, scale)
            seen.append((losses, [p.detach().float() for p in module.state_dict().values()]))
    (expected, weights), (losses, graphed_weights) = seen
    close = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}[dtype]
    assert losses == pytest.approx(expected, rel=close)
    # AdamW moves a weight by its learning rate, however small the gradient: where that is rounding, by either sign.
    difference = torch.cat([(a - b).flatten().abs() for a, b in zip(weights, graphed_weights, strict=True)])
    assert difference.mean() < (2e-4 if dtype == torch.float32 else 4e-3)
