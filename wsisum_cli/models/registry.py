"""The models at hand, shipped ones and those in a folder of the user's: list, show, add, verify.

The folder has a folder for each model, NAME/, with NAME.onnx, the files that hold its weights where it has any, and
the sha256 of them all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.card import (
    CARD_KEY,
    ENCODER,
    MAX_CARD,
    NEEDED,
    REMEDY,
    SUMMARIZER,
    WEIGHTS,
    AnyCard,
    Fields,
    check_depth,
    check_size,
    parse_card,
    parse_slide_encoder_card,
    parse_summarizer_card,
    read_fields,
)
from wsisum_cli.models.metadata import copy_with_metadata, read_metadata, weight_files
from wsisum_cli.models.places import shipped_models, user_models
from wsisum_cli.models.session import Port, open_session
from wsisum_cli.models.trial import try_model
from wsisum_cli.slides.source import sha256_of

SHIPPED, USER = "shipped", "user"
#: Beside the shipped models, {name: {"file", "sha256"}}; and beside each of the user's, {"files": {file: sha256}}.
MANIFEST, RECORD = "models.json", "added.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Tables of a card's TOML that are no part of the card: how its module is made (`wsisum models export`).
TABLES = ("arguments",)


@dataclass(frozen=True)
class Model:
    """A model at hand."""

    name: str
    path: Path
    #: SHIPPED or USER.
    where: str
    #: sha256 of each of its files as they were recorded, by name within the model's folder; None: nothing is.
    recorded: Mapping[str, str] | None
    #: Whether its name stands for another model, one of the user's.
    hidden: bool = False

    @property
    def files(self) -> list[Path]:
        """The ONNX file, then those that hold its weights. Raises ModelError when it is no ONNX file."""
        return [self.path, *(self.path.parent / name for name in weight_files(self.path))]


def models_at_hand(folders: tuple[Path, ...] = ()) -> list[Model]:
    """All that ship, then those of the user's folders, by name; a shipped one is hidden by a user's of its name.

    Those that were recorded are among them also when their file is gone.
    """
    shipped = shipped_models()
    manifest: dict[str, dict[str, str]] = {}
    for home in {path.parent for path in shipped.values()}:
        manifest |= _shipped_record(home)
        shipped = {name: home / next(iter(files)) for name, files in manifest.items()} | shipped
    users = {name for folder in folders for name in user_models(folder)}
    found = [Model(name, path, SHIPPED, manifest.get(name), name in users) for name, path in sorted(shipped.items())]
    for folder in folders:
        recorded = {path.parent.name: path.with_name(f"{path.parent.name}.onnx") for path in folder.glob(f"*/{RECORD}")}
        own = {name: path for name, path in recorded.items() if NAME.fullmatch(name)} | user_models(folder)
        found += [Model(name, path, USER, _user_record(path)) for name, path in sorted(own.items())]
    return found


def _shipped_record(folder: Path) -> dict[str, dict[str, str]]:
    entries = {name: entry for name, entry in _read_json(folder / MANIFEST).items() if isinstance(entry, dict)}
    return {name: {str(entry.get("file")): str(entry.get("sha256"))} for name, entry in entries.items()}


def _user_record(path: Path) -> dict[str, str] | None:
    files = _read_json(path.parent / RECORD).get("files")
    return files if isinstance(files, dict) else None


def _read_text(path: Path) -> str:
    """Of a card or a record. Raises ValueError for more than either takes, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_CARD + 1)
    check_size(data)
    return data.decode("utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where the file is missing or broken: then nothing is recorded, which verification says."""
    try:
        found = json.loads(_read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


# ---------------------------------------------------------------------------------------------- list and show


def read_card(path: Path) -> AnyCard:
    """The card of a model of any kind, without opening a session. Raises ModelError where there is no good one."""
    return parse_any_card(read_fields(read_metadata(path), path.name), sha256_of(path))


def parse_any_card(fields: Fields, sha256: str) -> AnyCard:
    """Not compared with the graph; of an encoder, mean and std may be missing, as its graph may take uint8."""
    if fields.kind == ENCODER:
        return parse_card(fields, takes_uint8=True, sha256=sha256)
    return (
        parse_summarizer_card(fields, sha256) if fields.kind == SUMMARIZER else parse_slide_encoder_card(fields, sha256)
    )


def describe(model: Model) -> dict[str, Any]:
    """A row of the list, JSON-able; `problem` says what is wrong with a model whose card cannot be read, else None."""
    row: dict[str, Any] = {"name": model.name, "where": model.where, "hidden": model.hidden, "file": str(model.path)}
    row |= dict.fromkeys(("kind", "version", "dims", "embedding_dims", "licence", "bytes", "sha256", "problem"))
    try:
        row["bytes"] = sum(file.stat().st_size for file in model.files)
        card = read_card(model.path).as_dict()
    except ModelError as error:
        return row | {"problem": str(error)}
    except OSError as error:
        return row | {"problem": f"{model.name}: {Path(error.filename or '').name}: {error.strerror}; {_again(model)}"}
    return row | {key: card[key] for key in row if key in card and key != "name"}


def show_model_file(path: Path) -> dict[str, Any]:
    """All there is to say of one model, JSON-able: card with what else its maker put there, files, inputs and outputs.

    Raises ModelError when it has no card, or onnxruntime cannot load it.
    """
    card = read_card(path)
    files = [path, *(path.parent / name for name in weight_files(path))]
    inputs, outputs = open_session(path, "cpu", lambda session: (session.inputs, session.outputs))
    return {
        "card": dict(read_fields(read_metadata(path), path.name).values) | card.as_dict(),
        "bytes": sum(file.stat().st_size for file in files),
        "files": [{"file": file.relative_to(path.parent).as_posix(), "bytes": file.stat().st_size} for file in files],
        "inputs": [_port(port) for port in inputs],
        "outputs": [_port(port) for port in outputs],
    }


def _port(port: Port) -> dict[str, Any]:
    """None among the sizes is any size; an unknown type or shape is None."""
    dtype = None if port.dtype is None else str(port.dtype)
    return {"name": port.name, "dtype": dtype, "shape": None if port.shape is None else list(port.shape)}


# --------------------------------------------------------------------------------------------------- verify


def verify_model(model: Model, device: str = "auto") -> list[dict[str, str]]:
    """What is wrong with a model, as pairs of `code` and `message`; nothing where it is as it was recorded and runs.

    Codes: `no-record`, `missing-file`, `checksum`, `unusable`.
    """
    problems: list[dict[str, str]] = []
    if model.recorded is None:
        problems.append(_problem("no-record", f"{model.name}: no sha256 of it was recorded; {_again(model)}"))
    for name, sha256 in (model.recorded or {}).items():
        file = model.path.parent / name
        if not file.is_file():
            problems.append(_problem("missing-file", f"{model.name}: {name} is gone; {_again(model)}"))
        elif (found := sha256_of(file)) != sha256:
            message = f"{model.name}: {name}: expected sha256 {sha256}, found {found}; {_again(model)}"
            problems.append(_problem("checksum", message))
    if not model.path.is_file():
        return problems
    try:
        try_model(model.path, read_card(model.path).kind, device)
    except ModelError as error:
        problems.append(_problem("unusable", str(error)))
    return problems


def _again(model: Model) -> str:
    if model.where == SHIPPED:
        return "install the package again (pip install --force-reinstall wsisum)"
    return "add it again (wsisum models add --force)"


def _problem(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


# ------------------------------------------------------------------------------------------------------ add


@dataclass(frozen=True)
class AddResult:
    name: str
    path: Path
    card: AnyCard


def add_model_file(
    file: Path,
    folder: Path,
    card: Path | None = None,
    name: str | None = None,
    force: bool = False,
    device: str = "auto",
) -> AddResult:
    """Take a model into the user's folder, with its card in its metadata, after it has run once as it must.

    `card` is a TOML file whose fields come before those in the file's metadata; None: the metadata has them all.
    `name` comes before the card's. `force` replaces a model of the user's of that name, and hides a shipped one; a
    folder that holds anything but what was added is never replaced.

    Raises ModelError, and leaves the folder as it was, for a file that is no model, has no card, or does not do what
    the card says; UsageError for a name that is taken or is none.
    """
    if not file.is_file():
        found = "a folder" if file.is_dir() else "no such file"
        raise ModelError(f"{file.name}: expected an ONNX file, found {found}; give the path of one")
    values = _card_values(file, card)
    values["name"] = name or values.get("name", file.stem)
    parsed = parse_any_card(Fields((card or file).name, values, _remedy(card)), sha256="")  # its own is not made yet
    _check_name(parsed.name, folder, force)
    _check_place(folder / parsed.name, file)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adding-") as staging:
        staged = Path(staging) / parsed.name
        model = _stage(file, staged, parsed.name, values)
        try:
            tried = try_model(model, parsed.kind, device)
        except ModelError as error:
            raise ModelError(str(error).replace(REMEDY, _remedy(card))) from error
        _record(model.rename(staged / f"{parsed.name}.onnx"), tried.sha256, values.get(WEIGHTS, {}))
        _put_in_place(staged, folder / parsed.name, Path(staging))
    return AddResult(parsed.name, folder / parsed.name / f"{parsed.name}.onnx", tried)


def read_card_file(path: Path) -> dict[str, Any]:
    """The fields of a card written as TOML. Raises ModelError when it is none, or holds what JSON has no word for."""
    try:
        values = tomllib.loads(_read_text(path))
        check_depth(values)
        json.dumps(values, allow_nan=False)
    except (FileNotFoundError, IsADirectoryError):
        raise ModelError(f"{path.name}: no such file; give a card as TOML") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path.name}: expected a card as TOML, found no text; give the right file") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: expected a card as TOML, found {error}; correct it") from None
    if "license" in values:
        values.setdefault("licence", values.pop("license"))
    return values


def _card_values(file: Path, card: Path | None) -> dict[str, Any]:
    """The fields of the TOML, then those in the file's metadata. Raises ModelError where there are none."""
    metadata = read_metadata(file)
    if card is None:
        try:
            return dict(read_fields(metadata, file.name).values)
        except ModelError as error:
            remedy = "give one as TOML (wsisum models add --card card.toml)"
            raise ModelError(f"{str(error).rpartition('; ')[0]}; {remedy}, with {NEEDED[ENCODER]}") from None
    values = {key: value for key, value in read_card_file(card).items() if key not in TABLES}
    # Metadata keys of their own may be anybody's; a whole card is meant.
    return (dict(read_fields(metadata, file.name).values) if CARD_KEY in metadata else {}) | values


def _remedy(card: Path | None) -> str:
    return f"correct it in {card.name}" if card else "give the right one (wsisum models add --card card.toml)"


def _check_name(name: str, folder: Path, force: bool) -> None:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no plain name; give letters, digits, dots, hyphens, at most 64 (--name)")
    added = os.path.lexists(folder / name)
    if added and _foreign(folder / name):
        raise UsageError(f"{name}: holds files that wsisum did not put there; give another name (--name)")
    if not force and (added or name in shipped_models()):
        where = "in your folder" if added else "among those that ship"
        raise UsageError(f"{name}: a model of this name is {where}; give another name (--name), or --force")


def _foreign(target: Path) -> bool:
    """Whether there is anything that `add` did not put there, which is not ours to delete."""
    if target.is_symlink() or not target.is_dir():
        return True
    ours = {RECORD, f"{target.name}.onnx", *(_user_record(target / RECORD) or ())}
    files = (entry for entry in target.rglob("*") if entry.is_symlink() or not entry.is_dir())
    return any(entry.relative_to(target).as_posix() not in ours for entry in files)


def _check_place(target: Path, file: Path) -> None:
    """What is to be taken in must not lie in the folder that it replaces."""
    if file.resolve().is_relative_to(target.resolve()):
        raise UsageError(f"{file.name}: lies in the folder it would replace; move it, or give another name (--name)")


def _stage(file: Path, staged: Path, name: str, values: dict[str, Any]) -> Path:
    """The model, still under its own name, with its card in it and its weights beside it. Gives the model.

    Notes in `values` what the weights are.
    """
    staged.mkdir()
    values.pop(WEIGHTS, None)
    for place in weight_files(file):
        parts = PurePosixPath(place)
        taken = (file.name, f"{name}.onnx", RECORD)
        if parts.is_absolute() or ".." in parts.parts or "\\" in place or place in taken:
            raise ModelError(f"{file.name}: keeps weights in {place!r}; export it with them in one file beside it")
        if not (file.parent / place).is_file():
            raise ModelError(f"{file.name}: keeps weights in {place}, which is not beside it; put it there")
        (staged / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.parent / place, staged / place)
        values.setdefault(WEIGHTS, {})[place] = sha256_of(staged / place)
    copy_with_metadata(file, staged / file.name, CARD_KEY, json.dumps(values, sort_keys=True, ensure_ascii=False))
    return staged / file.name


def _record(model: Path, sha256: str, weights: Mapping[str, str]) -> None:
    files = {"files": {model.name: sha256, **weights}}
    (model.parent / RECORD).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def _put_in_place(staged: Path, target: Path, staging: Path) -> None:
    """A folder cannot be renamed onto one that holds files: what was there steps aside first."""
    replaced = staging / "replaced"
    if target.exists():
        target.rename(replaced)
    try:
        staged.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise
