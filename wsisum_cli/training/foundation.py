"""Make a torch module of a lab's own model: an architecture from timm or a function, and weights without code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsisum_cli.errors import ModelError

#: Text in the arguments that refers to a Python object: "timm.layers:SwiGLUPacked".
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
#: Keys under which checkpoints may nest the parameters.
_WITHIN = ("state_dict", "model")
_LISTED = 4  # parameter names listed in an error


def make_module(source: str, arguments: Mapping[str, Any], weights: Path | None = None) -> nn.Module:
    """Make the module that `source` names with `arguments`, and load `weights` into it.

    `source` is "timm:NAME" (made without a classifier), or "package.module:function" or "FILE.py:function", which
    return a torch module, alone or first in a tuple. Arguments of the form "package.module:name" are replaced by the
    object they name.

    Raises ModelError when the module cannot be made, or the weights are not tensors or do not fit the module.
    """
    given = {key: _meant(value) for key, value in arguments.items()}
    place, _, name = source.partition(":")
    if not place or not name:
        raise ModelError(f"{source}: expected timm:NAME, package.module:function or FILE.py:function; give one of them")
    if place == "timm":
        given = {"model_name": name, "pretrained": False, "num_classes": 0, **given}
        place, name = "timm", "create_model"
    function = _named(place, name)
    try:
        module = function(**given)
    except Exception as error:
        raise ModelError(f"{source}: cannot be made ({_brief(error)}); correct the card's [arguments]") from error
    if isinstance(module, tuple) and module:
        module = module[0]  # the second is its transform
    if not isinstance(module, nn.Module):
        raise ModelError(f"{source}: expected a torch module, found a {type(module).__name__}; return the module alone")
    if weights is not None:
        _fill(module, weights)
    return module.eval()


def _meant(value: Any) -> Any:
    if isinstance(value, str) and _REFERENCE.fullmatch(value):
        return _named(*value.split(":"))
    return value


def _named(place: str, name: str) -> Any:
    """The object `name` in a module or Python file."""
    try:
        found: Any = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise ModelError(f"{place}: cannot be imported ({error}); install it beside wsisum") from error
    except AttributeError:
        raise ModelError(f"{place}: has no {name}; look for it in the version that is installed") from None
    except Exception as error:
        raise ModelError(f"{place}: cannot be imported ({_brief(error)})") from error
    return found


def _from_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError("no such file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -------------------------------------------------------------------------------------------------- weights


def _fill(module: nn.Module, path: Path) -> None:
    """Load the parameters, which must match the module exactly."""
    found = read_weights(path)
    expected = set(module.state_dict())
    for what, names in (("lacks", expected - set(found)), ("has beyond the module", set(found) - expected)):
        if names:
            listed = ", ".join(sorted(names)[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
            raise ModelError(
                f"{path.name}: expected the parameters of the module, found a file that {what} {len(names)} "
                f"({listed}); correct the card's [arguments]"
            )
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        raise ModelError(f"{path.name}: {_brief(error)}; correct the card's [arguments]") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a torch checkpoint or safetensors file, without running code in it.

    Raises ModelError for other files, and for files that hold anything but tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path.name}: no such file; check the path")
    content = _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
    for key in _WITHIN:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path.name}: expected tensors by name, found a {type(content).__name__}; {_REMEDY}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path.name}: expected a tensor as {name!r:.60}, found a {type(value).__name__}; {_REMEDY}"
            )
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return content


_REMEDY = "save the parameters alone, torch.save(module.state_dict(), FILE)"


def _safetensors(path: Path) -> Any:
    try:
        load_file = importlib.import_module("safetensors.torch").load_file  # it comes with timm and transformers
    except ImportError:
        raise ModelError(f"{path.name}: needs the package safetensors; pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:
        raise ModelError(f"{path.name}: expected a safetensors file, found {_brief(error)}; fetch it again") from error


def _checkpoint(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of old torch versions
            # mmap: other training state stays on disk
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ModelError(
                f"{path.name}: expected tensors alone, found {code[1]}, which would be run as code and was not; "
                f"where you trust the file, open it with what made it and {_REMEDY}"
            ) from None
        raise ModelError(
            f"{path.name}: expected a checkpoint of torch, found {_brief(error)}; fetch it again"
        ) from error


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
