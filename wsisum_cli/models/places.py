"""Where models are: bundled with the package, or in the user's folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wsisum_cli.errors import ModelError


def shipped_models() -> dict[str, Path]:
    """Names and files of the bundled models."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "shipped"
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "models"  # an editable install
    return {path.stem: path for path in sorted(folder.glob("*.onnx"))}


def user_models(folder: Path) -> dict[str, Path]:
    """Names and files of the models in a user's folder: NAME/NAME.onnx, as `wsisum models add` stores them."""
    found = sorted(path for path in folder.glob("*/*.onnx") if path.stem == path.parent.name)
    return {path.stem: path for path in found if not path.stem.startswith(".")}


def find_model(name_or_path: str | Path, folders: Sequence[Path] = ()) -> Path:
    """Find a model by the name of a bundled model or of one in the user's `folders`, or by path.

    If several have the name, folders win in their order, before bundled models: a name is only reused on purpose.
    Raises ModelError when there is none.
    """
    known = shipped_models()
    for folder in reversed(folders):
        known |= user_models(folder)
    path = Path(name_or_path)
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    if path.is_file():
        return path
    names = ", ".join(known) or "none"
    what = "no such file" if path.suffix == ".onnx" or len(path.parts) > 1 else "no model with this name"
    raise ModelError(f"{name_or_path}: {what}; give the name of a model ({names}) or the path of an ONNX file")


FOLDER_VARIABLE = "WSISUM_MODELS"


def user_folder() -> Path:
    """The folder of the user's models: $WSISUM_MODELS, or the platform's data folder.

    Not typer.get_app_dir, which is for settings: on Windows that folder roams between machines, and models are
    gigabytes.
    """
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "wsisum" / "models"
