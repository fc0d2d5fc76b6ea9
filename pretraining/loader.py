"""Batches of patches to restore: {"image": corrupted, "target"}, and "class" where the patches have classes.

On the CPU the reading workers corrupt with compiled code. For a GPU they draw the corruption's parameters, which come
through DALI with the patch, and the whole batch is corrupted on the device, one batch ahead of its consumer and on a
stream of its own, so that it fills what the training step leaves idle.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

import torch
from nvidia.dali import types
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from cases.plan import Plan
from data_loading.augmentation.effect import Node
from data_loading.dali import PipelineSpec, Port, dali_threads, to_gpu, usable_workers
from data_loading.loader import Batch, PatchLoader
from data_loading.module import LoaderSettings, PatchDataModule, batches_identity
from data_loading.sources.sampling import PatchSampler
from pretraining.corruption import Corruption, DeviceCorruption
from pretraining.source import Patches, RestorationSource

DALI_TYPES = {
    "float32": types.DALIDataType.FLOAT,
    "int32": types.DALIDataType.INT32,
    "int64": types.DALIDataType.INT64,
}


class RestorationLoader(PatchLoader):
    """Iterates over {"image", "target"}: (N, C, *patch) float32 on the pipeline's device; "class": (N,) int64."""

    def __init__(self, source: RestorationSource, spec: PipelineSpec, *, identity: dict[str, int | str]) -> None:
        super().__init__(source, spec, steps=source.sampler.steps_per_epoch, identity=identity)
        self._pairs = source
        self._ahead: tuple[int, Batch] | None = None  # a global step, and its batch
        self._stream: torch.cuda.Stream | None = None  # of the corruption; made with the first batch
        if source.repeats:
            del self.sampler  # a loader to validate with keeps its own count, and Lightning must not look into it

    def close(self) -> None:
        """Stop the pipeline and its workers; a later batch builds it anew."""
        self._ahead = None
        super().close()

    def _batch(self, global_step: int) -> Batch:
        if self._pairs.corrupts:
            return super()._batch(global_step)
        step, batch = self._ahead or (-1, {})
        if step != global_step:
            batch = self._queued(global_step)
        self._ahead = None
        self._hand_over(batch)
        if (global_step + 1) % self._steps:  # the next epoch may be another than the next
            self._ahead = global_step + 1, self._queued(global_step + 1)
        return batch

    def _queued(self, global_step: int) -> Batch:
        """Fetch a batch and queue its corruption; on a GPU the copy out of DALI's buffers too is the side stream's."""
        gpu = self._spec.device_id
        if gpu is None:
            return self._corrupted(global_step)
        if self._stream is None:
            self._stream = torch.cuda.Stream(gpu)
        with torch.cuda.stream(self._stream):
            return self._corrupted(global_step)

    def _hand_over(self, batch: Batch) -> None:
        """Let the consumer's stream wait for the batch, and the memory be reused only after it; the host waits not.

        Called before more is queued, or the consumer would wait for that as well.
        """
        if self._stream is None:
            return
        consumer = torch.cuda.current_stream(self._stream.device)
        consumer.wait_stream(self._stream)
        for tensor in batch.values():
            tensor.record_stream(consumer)

    def _corrupted(self, global_step: int) -> Batch:
        fetched = super()._batch(global_step)
        begin = time.perf_counter()
        drawn = [fetched.pop(name) for name in _drawn_names(self._pairs.corruption)]
        assert isinstance(self._pairs.corruption, DeviceCorruption)
        image, target = self._pairs.corruption.apply_device(fetched.pop("patch"), drawn)
        self.wait_seconds += time.perf_counter() - begin
        return {"image": image, "target": target, **fetched}


def _drawn_names(corruption: Corruption) -> list[str]:
    return [f"drawn_{i}" for i in range(len(corruption.drawn))] if isinstance(corruption, DeviceCorruption) else []


def workers_corrupt(corruption: Corruption, device_id: int | None) -> bool:
    """Whether the workers corrupt, on the CPU: without a GPU, or where the corruption cannot be computed on it."""
    if device_id is None or not isinstance(corruption, DeviceCorruption):
        return True
    return bool(corruption.why_not_device())


def restoration_loader(
    patches: Patches,
    plan: Plan,
    loading: LoaderSettings,
    corruption: Corruption,
    *,
    steps: int,
    device_id: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    repeats: bool = False,
) -> RestorationLoader:
    """Pairs of the plan's patch size.

    Args:
        loading: batch size, workers and seed.
        steps: of an epoch and rank.
        device_id: the GPU; None computes on the CPU.
        rank, world_size: global.
        repeats: see RestorationSource.
    """
    sampler = PatchSampler(
        seed=loading.seed,
        n_cases=len(patches),
        batch_size=loading.batch_size,
        steps_per_epoch=steps,
        patch_dhw=(*[1] * (3 - plan.dim), *plan.patch_size),  # type: ignore[arg-type]
        channels=plan.in_channels,
    ).for_rank(rank, world_size)
    source = RestorationSource(
        patches=patches,
        sampler=sampler,
        corruption=corruption,
        corrupts=workers_corrupt(corruption, device_id),
        repeats=repeats,
        axes=plan.dim,
    )
    identity = batches_identity(loading, patches.names, steps, world_size)
    return RestorationLoader(source, _spec(source, plan, loading, device_id), identity=identity)


def _spec(source: RestorationSource, plan: Plan, loading: LoaderSettings, device_id: int | None) -> PipelineSpec:
    """The pipeline of a source: it only moves what the workers hand over."""
    patch = Port(dtype=types.DALIDataType.FLOAT, ndim=plan.dim + 1, layout="C" + "DHW"[-plan.dim :])
    shape = (plan.in_channels, *plan.patch_size)
    sample_bytes = 4 * math.prod(shape)
    if source.corrupts:
        names, ports = ["image", "target"], [patch, patch]
        sample_bytes *= 2
    else:
        assert isinstance(source.corruption, DeviceCorruption)
        names = ["patch", *_drawn_names(source.corruption)]
        ports = [patch, *(Port(dtype=DALI_TYPES[kind], ndim=axes) for kind, axes in source.corruption.drawn)]
        sample_bytes += sum(array.nbytes for array in source.corruption.draw(shape, 0))
    if source.patches.classes is not None:
        names, ports = [*names, "class"], [*ports, Port(dtype=types.DALIDataType.INT64, ndim=0)]
    return PipelineSpec(
        ports=tuple(ports),
        graph=_unchanged if device_id is None else _to_gpu,
        names=tuple(names),
        batch_size=loading.batch_size,
        sample_bytes=sample_bytes,
        device_id=device_id,
        num_workers=usable_workers(loading.num_workers),
        num_threads=dali_threads(),
    )


def _unchanged(*nodes: Node) -> tuple[Node, ...]:
    return nodes


def _to_gpu(*nodes: Node) -> tuple[Node, ...]:
    return tuple(map(to_gpu, nodes))


class RestorationDataModule(PatchDataModule):
    """Pairs to train and to validate on; the latter are the same in every epoch.

    An epoch validates in proportion to what it trains, and sees each validation scan or cube at least once.

    Args:
        plan: its patch size and channels.
        device_id: the GPU that the batches are made on; None for the CPU.
    """

    def __init__(
        self,
        train: Patches,
        validation: Patches,
        plan: Plan,
        settings: LoaderSettings,
        corruption: Corruption,
        device_id: int | None = None,
    ) -> None:
        super().__init__(settings, device_id)
        self.train, self.validation, self.plan, self.corruption = train, validation, plan, corruption

    def setup(self, stage: str) -> None:
        """Say where the workers must do what the GPU could."""
        if self.device_id is not None and isinstance(self.corruption, DeviceCorruption):
            say_why_not(self.corruption)

    def train_dataloader(self) -> RestorationLoader:
        return self._loader(self.train, self.steps()[0], repeats=False)

    def val_dataloader(self) -> RestorationLoader:
        return self._loader(self.validation, self.steps()[1], repeats=True)

    def steps(self) -> tuple[int, int]:
        """Training and validation steps of an epoch, of one rank."""
        batch = self.settings.batch_size * self.ranks.get("world_size", 1)
        train = self.settings.steps or math.ceil(self.train.visits * len(self.train) / batch)
        once = math.ceil(len(self.validation) / batch)
        return train, max(once, math.ceil(train * len(self.validation) / len(self.train)))

    def _loader(self, patches: Patches, steps: int, *, repeats: bool) -> RestorationLoader:
        loader = restoration_loader(
            patches,
            self.plan,
            self.settings,
            self.corruption,
            steps=steps,
            device_id=self.device_id,
            repeats=repeats,
            **self.ranks,
        )
        return self.kept(loader)


@rank_zero_only
def say_why_not(corruption: DeviceCorruption, say: Callable[[str], object] = sys.stderr.write) -> None:
    """One line where patches are corrupted by the workers although there is a GPU."""
    if reason := corruption.why_not_device():
        say(f"note: patches are corrupted on the CPU, by the workers: {reason}\n")
