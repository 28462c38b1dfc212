"""The checkpoint that WSISum's authors publish: read without running it, and every parameter accounted for."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsisum_cli.errors import ModelError

#: As many parameter names as an error lists of each sort.
_LISTED = 12
#: What training saves beside the parameters: its arguments, and learning rates as numpy scalars.
_BOOKKEEPING = (
    *("argparse.Namespace", "numpy.dtype"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
)
_REMEDY = "give the file that the training saved"


@dataclass(frozen=True)
class Sizes:
    """Of a masked autoencoder: widths in dims, depths in blocks."""

    #: Also the length of a patch feature and of the slide embedding.
    width: int
    depth: int
    decoder_width: int
    decoder_depth: int
    #: Of the perceptron in a block, relative to the block's width.
    mlp_ratio: int
    #: Side in px of the image patches of the image model's first layer, which is stored and never used.
    unused_side: int

    def __str__(self) -> str:
        return f"encoder {self.depth} x {self.width}, decoder {self.decoder_depth} x {self.decoder_width}"


#: `pretrain_mae_base_patch16_224`, as published.
PUBLISHED = Sizes(width=768, depth=12, decoder_width=384, decoder_depth=4, mlp_ratio=4, unused_side=16)


# ------------------------------------------------------------------------------------------------ the file


class _Ignored:
    """Stands in for an object of the bookkeeping: takes whatever it is given, and does nothing with it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _stand_in(full_name: str) -> Any:
    """A class that torch takes for the one of that name."""
    module, _, name = full_name.rpartition(".")
    return type(name, (_Ignored,), {"__module__": module})


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The parameters of a checkpoint, float32, under their published names.

    They may stand at the top or under "model", as training saves them, and begin with "module.", as
    DataParallel names them. Nothing in the file is executed: what is neither a tensor nor the bookkeeping of the
    training is refused. Raises ModelError, also for a file that is no checkpoint.
    """
    content = _load(path)
    parameters = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(parameters, dict) or not parameters:
        found = "nothing" if parameters == {} else f"a {type(parameters).__name__}"
        raise _wrong(path, f"expected parameters by name, found {found}", _REMEDY)
    if all(isinstance(name, str) and name.startswith("module.") for name in parameters):
        parameters = {name.removeprefix("module."): value for name, value in parameters.items()}
    return {name: _checked(path, name, value) for name, value in parameters.items()}


def _checked(path: Path, name: Any, value: Any) -> Tensor:
    """One parameter, float32."""
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise _wrong(path, f"expected tensors by name, found a {type(value).__name__} as {name!r:.80}", _REMEDY)
    if not value.is_floating_point() or not value.is_cpu or value.layout is not torch.strided:
        raise _wrong(path, f"expected floats as {name:.80}, found {value.dtype}, {value.layout}", _REMEDY)
    parameter: Tensor = value.to(torch.float32)
    if not parameter.isfinite().all():
        raise _wrong(path, f"expected finite numbers, found NaN or infinity in {name:.80}", "fetch it again")
    return parameter


def _load(path: Path) -> Any:
    if not path.is_file():
        raise _wrong(path, "expected a checkpoint, found no such file", "check the path")
    stand_ins = [_stand_in(name) for name in _BOOKKEEPING]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            # The optimizer's state is twice as large as the parameters: it stays on the disk.
            mmap = zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever a file that is none of torch's, or a broken one, sets off
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise _wrong(
                path,
                f"expected tensors alone, found {code[1]}, which would be run as code and was not",
                "where the file is trusted, save its parameters alone: "
                "torch.save(torch.load(FILE, weights_only=False)['model'], NEW)",
            ) from None
        raise _wrong(path, f"expected a checkpoint of torch, found {_brief(error)}", "fetch it again") from error


def _brief(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:120] or type(error).__name__


def _wrong(path: Path, message: str, remedy: str) -> ModelError:
    return ModelError(f"{path.name}: {message}; {remedy}")


# ---------------------------------------------------------------------------------------------- the layout


def published_layout(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter, by its published name."""
    width, decoder_width, side = sizes.width, sizes.decoder_width, sizes.unused_side
    return {
        "encoder.cls_token": (1, 1, width),
        "encoder.patch_embed.proj.weight": (width, 3, side, side),
        "encoder.patch_embed.proj.bias": (width,),
        **_blocks_layout("encoder", width, sizes.depth, sizes.mlp_ratio),
        "encoder_to_decoder.weight": (decoder_width, width),
        "mask_token": (1, 1, decoder_width),
        **_blocks_layout("decoder", decoder_width, sizes.decoder_depth, sizes.mlp_ratio),
        "decoder.head.weight": (width, decoder_width),
        "decoder.head.bias": (width,),
    }


def _blocks_layout(half: str, width: int, depth: int, mlp_ratio: int) -> dict[str, tuple[int, ...]]:
    hidden = width * mlp_ratio
    block: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"), (width,)),
        # Queries and values have a bias each; keys have none.
        **dict.fromkeys(("attn.q_bias", "attn.v_bias", "attn.proj.bias", "mlp.fc2.bias"), (width,)),
        "attn.qkv.weight": (3 * width, width),
        "attn.proj.weight": (width, width),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
    }
    layout = {f"{half}.blocks.{index}.{name}": shape for index in range(depth) for name, shape in block.items()}
    return layout | dict.fromkeys((f"{half}.norm.weight", f"{half}.norm.bias"), (width,))


def sizes_of(parameters: Mapping[str, Tensor]) -> Sizes:
    """What the shapes say; the published size where they do not.

    At the published width it is the published size whatever the rest says, so that a file that lacks its last
    block is not taken for a shallower model.
    """

    def length(name: str, axis: int, otherwise: int) -> int:
        shape = parameters[name].shape if name in parameters else ()
        return shape[axis] if len(shape) > axis and shape[axis] > 0 else otherwise

    width = length("encoder.cls_token", 2, PUBLISHED.width)
    if width == PUBLISHED.width:
        return PUBLISHED
    return Sizes(
        width=width,
        depth=_depth(parameters, "encoder") or PUBLISHED.depth,
        decoder_width=length("mask_token", 2, PUBLISHED.decoder_width),
        decoder_depth=_depth(parameters, "decoder") or PUBLISHED.decoder_depth,
        mlp_ratio=max(1, length("encoder.blocks.0.mlp.fc1.bias", 0, PUBLISHED.mlp_ratio * width) // width),
        unused_side=length("encoder.patch_embed.proj.weight", 3, PUBLISHED.unused_side),
    )


def _depth(parameters: Mapping[str, Tensor], half: str) -> int:
    """Number of blocks of which there is any parameter."""
    matches = (re.match(rf"{half}\.blocks\.(\d+)\.", name) for name in parameters)
    return len({match[1] for match in matches if match})


def check_layout(parameters: Mapping[str, Tensor], sizes: Sizes, source: str) -> None:
    """Raises ModelError that lists missing, unexpected and mis-shaped parameters."""
    layout = published_layout(sizes)
    findings = {
        "missing": [name for name in layout if name not in parameters],
        "unexpected": [name for name in parameters if name not in layout],
        "of another shape": [
            f"{name} {tuple(parameters[name].shape)} instead of {shape}"
            for name, shape in layout.items()
            if name in parameters and tuple(parameters[name].shape) != shape
        ],
    }
    listed = [f"{sort}: {_list(names)}" for sort, names in findings.items() if names]
    if listed:
        raise ModelError(
            f"{source}: expected the {len(layout)} parameters of WSISum's pre-training, {sizes}; "
            f"found {'; '.join(listed)}; give a checkpoint of pretrain_mae_base_patch16_224 as its training saved it"
        )


def _list(names: list[str]) -> str:
    more = [f"and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])
