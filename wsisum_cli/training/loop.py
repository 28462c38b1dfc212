"""The training loop: a run folder, seeds, mixed precision, one process or several, early stopping, exact resume.

A `Task` says what is trained, on what, and how good it is; `train` does the rest. The run folder holds

    configuration.json   what was asked for, and of what data; a run resumes only under the same
    metrics.csv, .json   a row for each epoch; curves.png draws them
    checkpoint.pt        everything to go on from: weights, optimizer, best weights, metrics

All that is random in an epoch follows from the seed and the number of the epoch, so a run that was interrupted
resumes at the last whole epoch and ends with the same weights as one that was not.

Started by `torchrun`, gradients are averaged over the processes, and the first of them evaluates and writes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsisum_cli.errors import DeviceError, ModelError, UsageError
from wsisum_cli.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from wsisum_cli.training.curves import write_metrics

Batch = Mapping[str, Tensor]
#: epoch (from 1), epochs in all, the metrics of that epoch.
Progress = Callable[[int, int, Mapping[str, float]], None]

FINAL_RATE = 0.01  # the learning rate ends at this share of its peak


class Task(Protocol):
    """What is trained.

    `module` holds all that is trained or must be kept: parameters and buffers (a teacher, prototypes). Parameters
    without `requires_grad` are kept but not trained.
    `monitor` names the held-out metric that says which weights are best; None (or where `evaluate` gives no such
    metric) keeps the last ones and never stops early. `higher_is_better` says which way it goes.
    """

    module: nn.Module
    monitor: str | None
    higher_is_better: bool

    def steps(self, processes: int) -> int:
        """Batches in an epoch, equally many for each process."""

    def batches(self, epoch: int, process: int, processes: int) -> Iterator[Batch]:
        """The batches of this process; they follow from the task's seed, `epoch` and `process` alone. On the CPU."""

    def loss(self, model: nn.Module, batch: Batch, share: float) -> Mapping[str, Tensor]:
        """Scalars; "loss" is minimized, all are recorded. `share` of the training is done, 0..1.

        Call `model` (which may wrap `module`, to average gradients) once, not `module`.
        """

    def after_step(self, share: float) -> None:
        """What follows each step, such as moving a teacher towards its student."""

    def before_epoch(self, epoch: int) -> None:
        """What precedes each epoch on every process, `module` in place, such as clustering anew; deterministic."""

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on held-out slides, by `module` as it stands, in eval mode and without gradients; may be empty."""


@dataclass(frozen=True)
class Settings:
    """How to train. A run resumes only under equal ones, but for `device`."""

    epochs: int = 100
    learning_rate: float = 1e-3  # the peak: a linear warm-up, then a cosine down to a hundredth
    weight_decay: float = 0.05  # of matrices; biases, norms and scales have none
    warmup: float = 0.05  # share of all steps
    clip: float = 1.0  # the gradient's norm, at most
    patience: int = 0  # stop after so many epochs without a better held-out metric; 0 never stops
    precision: str = "auto"  # "bf16", "fp32"; "auto" is bf16 on GPUs that have it
    device: str = "auto"  # "cuda", "cpu"; "auto" is a GPU where there is one
    seed: int = 0
    judge_start: bool = False  # whether the weights before the first epoch may turn out to be the best


@dataclass(frozen=True)
class Trained:
    """How a training ended; the task's module holds the best weights, on the CPU, in eval mode."""

    best_epoch: int  # from 1; 0 where the start was judged and is the best
    metrics: tuple[Mapping[str, float], ...]  # a row for each epoch, the start among them where it was judged
    stopped_early: bool
    first_process: bool  # whether this is the one that writes

    @property
    def best(self) -> Mapping[str, float]:
        return next(row for row in self.metrics if row["epoch"] == self.best_epoch)


@dataclass(frozen=True)
class Processes:
    """The processes that train together, and this one's place among them."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0


@dataclass
class State:
    """Where a run stands after `epoch` epochs."""

    epoch: int
    best_epoch: int
    best_value: float  # NaN before there is one
    best_weights: dict[str, Tensor]
    metrics: list[dict[str, float]]


def train(
    task: Task,
    folder: Path,
    settings: Settings,
    configuration: Mapping[str, Any],
    progress: Progress = lambda epoch, epochs, metrics: None,
) -> Trained:
    """Train the task in the run folder, from the last checkpoint there where there is one.

    `configuration` is JSON-able and describes model, data and settings; a run goes on only under an equal one.
    A finished run is not trained again. Raises UsageError when the folder holds another run, ModelError when its
    checkpoint cannot be used or the loss is no number, DeviceError when the device asked for is not there.
    """
    if settings.epochs < 1:
        raise UsageError(f"epochs: expected at least 1, found {settings.epochs}")
    with processes_of(settings.device) as processes:
        device = find_device(settings.device, processes)
        if processes.first:
            settle_configuration(folder, configuration)
        together(processes)
        return run(task, folder, settings, processes, device, progress)


def run(
    task: Task, folder: Path, settings: Settings, processes: Processes, device: torch.device, progress: Progress
) -> Trained:
    """Epoch after epoch, from the checkpoint on."""
    task.module.to(device)
    optimizer = torch.optim.AdamW(parameter_groups(task.module, settings.weight_decay), settings.learning_rate)
    state = State(0, 0, math.nan, {}, [])
    if (folder / CHECKPOINT).is_file():
        state = State(**load_checkpoint(folder / CHECKPOINT, task.module, optimizer, device))
    elif settings.judge_start:
        record(task, state, evaluate(task, processes))
    model: nn.Module = task.module
    if processes.count > 1:
        model = nn.parallel.DistributedDataParallel(task.module, find_unused_parameters=True)
    while state.epoch < settings.epochs and not out_of_patience(state, settings):
        trained = train_epoch(task, model, optimizer, state.epoch, settings, processes, device)
        held_out = evaluate(task, processes)
        state.epoch += 1
        record(task, state, {**trained, **held_out})
        if processes.first:
            save_checkpoint(folder / CHECKPOINT, task.module, optimizer, vars(state))
            write_metrics(folder, state.metrics, state.best_epoch)
            progress(state.epoch, settings.epochs, state.metrics[-1])
        together(processes)
    task.module.load_state_dict(state.best_weights)
    task.module.to("cpu").eval()
    return Trained(state.best_epoch, tuple(state.metrics), state.epoch < settings.epochs, processes.first)


def train_epoch(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    settings: Settings,
    processes: Processes,
    device: torch.device,
) -> dict[str, float]:
    """One epoch; the mean of each recorded scalar, over steps and processes."""
    seed_all(settings.seed, epoch, processes.rank)
    task.before_epoch(epoch)
    model.train()
    steps = task.steps(processes.count)
    sums: dict[str, Tensor] = {}
    for number, batch in enumerate(task.batches(epoch, processes.rank, processes.count)):
        share = (epoch * steps + number) / (settings.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(share, settings.warmup)
        with mixed_precision(settings.precision, device):
            losses = task.loss(model, {name: value.to(device) for name, value in batch.items()}, share)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(task.module.parameters(), settings.clip, error_if_nonfinite=False)
        optimizer.step()
        task.after_step((epoch * steps + number + 1) / (settings.epochs * steps))
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach().float()
    means = {name: mean_over(value / steps, processes) for name, value in sums.items()}
    if not math.isfinite(means["loss"]):
        raise ModelError(
            f"epoch {epoch + 1}: the loss is not finite; start again with a lower --learning-rate, or --precision fp32"
        )
    return means


def evaluate(task: Task, processes: Processes) -> dict[str, float]:
    """The held-out metrics as the first process finds them, told to all."""
    task.module.eval()
    found: list[dict[str, float]] = [{}]
    if processes.first:
        with torch.no_grad():
            found = [{name: float(value) for name, value in task.evaluate().items()}]
    if processes.count > 1:
        dist.broadcast_object_list(found)
    return found[0]


def record(task: Task, state: State, metrics: dict[str, float]) -> None:
    """Take over the metrics of the epoch, and the weights where they are the best so far."""
    state.metrics.append({"epoch": float(state.epoch), **metrics})
    value = metrics.get(task.monitor or "", math.nan)
    better = value > state.best_value if task.higher_is_better else value < state.best_value
    if better or math.isnan(state.best_value):
        state.best_epoch, state.best_value = state.epoch, value
        state.best_weights = {name: kept.detach().cpu().clone() for name, kept in task.module.state_dict().items()}


def out_of_patience(state: State, settings: Settings) -> bool:
    return 0 < settings.patience <= state.epoch - state.best_epoch


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms, scales and tokens do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def rate(share: float, warmup: float) -> float:
    """Learning rate, as a share of its peak, when `share` of the training is done."""
    if share < warmup:
        return max(share / warmup, FINAL_RATE)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) / 2


def seed_all(seed: int, epoch: int, rank: int) -> None:
    """Seed torch for one epoch of one process."""
    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> 1))


def mixed_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where it was asked for, or where the GPU has it. Raises UsageError for an unknown precision."""
    if precision not in ("auto", "bf16", "fp32"):
        raise UsageError(f"precision: expected auto, bf16 or fp32, found {precision!r}")
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def find_device(wanted: str, processes: Processes) -> torch.device:
    """Raises DeviceError when a GPU was asked for and there is none."""
    if wanted not in ("auto", "cuda", "cpu"):
        raise UsageError(f"device: expected auto, cuda or cpu, found {wanted!r}")
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError("device cuda was asked for, but torch finds no GPU; pass --device cpu")
    return torch.device("cuda", processes.local_rank)


@contextmanager
def processes_of(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started; without torchrun there is one."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Processes()
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        local_rank = dist.get_node_local_rank(fallback_rank=0)
        if on_gpu:
            torch.cuda.set_device(local_rank)
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    finally:
        dist.destroy_process_group()


def together(processes: Processes) -> None:
    """Wait for all processes."""
    if processes.count > 1:
        dist.barrier()


def mean_over(value: Tensor, processes: Processes) -> float:
    if processes.count > 1:
        dist.all_reduce(value)
    return float(value) / processes.count


def check_configuration(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Raises UsageError when the folder holds a run of another configuration."""
    path = folder / "configuration.json"
    asked = json.loads(json.dumps(configuration))
    if (folder / CHECKPOINT).is_file() and path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differs = sorted(key for key in {*asked, *found} if asked.get(key) != found.get(key))
        if differs:
            raise UsageError(
                f"{folder.name}: holds a run of another configuration ({', '.join(differs)} differ); "
                "pass the same options and data to resume it, or another folder"
            )


def settle_configuration(folder: Path, configuration: Mapping[str, Any]) -> None:
    """Write configuration.json, or raise UsageError when the folder holds a run of another configuration."""
    check_configuration(folder, configuration)
    path = folder / "configuration.json"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = path.with_suffix(".part")
    waiting.write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(waiting, path)
