"""The checkpoint.pt of a run: written atomically, and read as plain tensors and values, never as code."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsisum_cli.errors import ModelError

#: File name in the run folder.
CHECKPOINT = "checkpoint.pt"
PARTS = {"module", "optimizer", "state"}


def save_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Save a checkpoint. `state` holds tensors, numbers, text, and lists and dicts of those."""
    waiting = path.with_suffix(".part")
    parts = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "state": dict(state)}
    torch.save(parts, waiting)
    os.replace(waiting, path)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a torch file that holds only tensors and plain values. Raises ModelError for anything else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about unusual pickles, which are read or refused anyway
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name}: expected tensors and plain values, found objects that would run code when loaded; "
            "take a checkpoint from a source you trust that holds a state dict alone, or start again in another folder"
        ) from error
    # torch's exception depends on what is damaged.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{path.name}: not a readable checkpoint; remove it to start again") from error


def load_checkpoint(
    path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    """Restore weights and optimizer, and return the state. Raises ModelError when they do not fit."""
    parts = read_checkpoint(path, device)
    if not isinstance(parts, dict) or set(parts) != PARTS:
        raise ModelError(f"{path.name}: expected {', '.join(sorted(PARTS))}; it is no checkpoint of a run here")
    try:
        module.load_state_dict(parts["module"])
        optimizer.load_state_dict(parts["optimizer"])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path.name}: its weights are of another model; start again in another folder ({first_line(error)})"
        ) from error
    state = parts["state"]
    state["best_weights"] = {name: value.cpu() for name, value in state["best_weights"].items()}
    return dict(state)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]
