"""``--cuda_graphs``: the forward pass with the loss, and the backward pass, as one CUDA graph each.

A step of the default network launches about a thousand kernels, and the host needs its time for each of them. A graph
is launched at once. What is captured is the largest part of a step that has the same shapes, addresses and numbers of
the host in every step: forward pass, loss, gradients. Gradient clipping, loss scaling, optimiser, schedule, averaged
weights and log stay as they are, for learning rates are numbers of the host, and there are few kernels in them.

``torch.cuda.make_graphed_callables`` does the same, but lets no other thread allocate meanwhile, and DALI's do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from training.learning import LearningModule, TrainingError

WARM_UP = 3  # steps before the capture, in which cuDNN measures its kernels and Triton compiles ours

Batch = dict[str, Tensor]


class GraphedSteps(Callback):
    """Training steps compute their loss and its gradients by graphs; evaluation runs as ever."""

    def on_fit_start(self, trainer: Trainer, pl_module: LearningModule) -> None:  # type: ignore[override]
        if pl_module.device.type != "cuda":
            raise TrainingError("--cuda_graphs is for a GPU: leave it out on the CPU")
        if trainer.world_size > 1:
            raise TrainingError(
                "--cuda_graphs is for one GPU: several exchange gradients amid the backward pass, which a graph does "
                "not stop for; leave it out"
            )
        if type(pl_module).training_step is not LearningModule.training_step:
            raise TrainingError(
                f"{type(pl_module).__name__} has a training step of its own: --cuda_graphs needs training_loss instead"
            )
        pl_module.graphed = GraphedLoss(pl_module.training_loss, pl_module.network)

    def on_train_end(self, trainer: Trainer, pl_module: LearningModule) -> None:  # type: ignore[override]
        """Free the graphs' memory."""
        pl_module.graphed = None


class GraphedLoss:
    """The loss of batches, which its graphs compute; captured at the first batch.

    A batch of other shapes than the first one's is computed plainly. A loss and its gradients hold until the next call.

    Args:
        loss: of a batch, a scalar that depends on the batch and on the network's parameters and buffers alone.
        network: whose parameters are learnt.
    """

    def __init__(self, loss: Callable[[Batch], Tensor], network: nn.Module) -> None:
        self.loss, self.network = loss, network
        self._captured: _Captured | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Raises TrainingError where the loss cannot be captured."""
        if self._captured is None:
            try:
                self._captured = _Captured(self.loss, self.network, batch)
            except RuntimeError as error:
                raise TrainingError(
                    f"the training step cannot be captured as a CUDA graph: leave out --cuda_graphs "
                    f"({str(error).splitlines()[0]})"
                ) from error
        if not self._captured.takes(batch):
            return self.loss(batch)
        result: Tensor = _Replay.apply(self._captured, batch, *self._captured.parameters)
        return result


class _Captured:
    """Both graphs, and the memory that they read and write.

    Attributes:
        inputs: where a batch is copied to.
        loss: scalar, of the last forward replay.
        scale: gradient of what is minimised by the loss: 1, or the scale of a loss in fp16.
        gradients: of the parameters, of the last backward replay; None where the loss does not depend on one.
    """

    def __init__(self, loss: Callable[[Batch], Tensor], network: nn.Module, batch: Batch) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.inputs = {name: value.clone() for name, value in batch.items()}
        stream = torch.cuda.Stream()
        buffers = [buffer.clone() for buffer in network.buffers()]  # such as moving statistics, which no step moves yet
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                torch.autograd.grad(loss(self.inputs), self.parameters, allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)
        for buffer, value in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(value)

        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, stream=stream, capture_error_mode="thread_local"):
            result = loss(self.inputs)
        self.scale = torch.ones_like(result)
        pool = self.forward.pool()
        with torch.cuda.graph(self.backward, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.gradients = torch.autograd.grad(result, self.parameters, self.scale, allow_unused=True)
        self.loss = result.detach()  # without its graph, whose nodes would go on working on the stream of the capture

    def takes(self, batch: Batch) -> bool:
        """Whether the batch has the shapes and types that were captured."""
        return batch.keys() == self.inputs.keys() and all(
            value.shape == self.inputs[name].shape and value.dtype == self.inputs[name].dtype
            for name, value in batch.items()
        )


class _Replay(torch.autograd.Function):
    """To autograd, the loss as a function of the parameters."""

    @staticmethod
    def forward(ctx: Any, captured: _Captured, batch: Batch, *parameters: Tensor) -> Tensor:
        for name, value in batch.items():
            captured.inputs[name].copy_(value, non_blocking=True)
        captured.forward.replay()
        ctx.captured = captured
        return captured.loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        captured = ctx.captured
        captured.scale.copy_(scale)
        captured.backward.replay()
        return (None, None, *(None if g is None else g.detach() for g in captured.gradients))
