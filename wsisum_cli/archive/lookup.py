"""Resolve arguments: summaries in folders, and models by the cards in summaries."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsisum_cli.errors import UsageError

if TYPE_CHECKING:
    from wsisum_cli.models.card import ModelCard
    from wsisum_cli.models.encoder import Encoder
    from wsisum_cli.models.slide_encoder import SlideEncoder
    from wsisum_cli.models.summarizer import Summarizer
    from wsisum_cli.summary.attributes import NamedEncoder
    from wsisum_cli.verification.appraisal import FindEncoder, FindSlideEncoder, FindSummarizer

Model = TypeVar("Model")

# Heavy modules are imported where they are used, so that --help is fast.


def all_summaries(arguments: list[str]) -> list[str]:
    """The summaries named, and all those inside folders. Raises UsageError when a folder has none."""
    return [path for path, _ in named_summaries(arguments)]


def named_summaries(arguments: list[str]) -> list[tuple[str, str]]:
    """The same, each with what to call it: its path within the folder, or its name. Raises UsageError."""
    from wsisum_cli.summary.container import SUFFIX, name_of, visible_summaries

    found: list[tuple[str, str]] = []
    for argument in arguments:
        if is_remote_folder(argument):
            found += remote_summaries(argument)
            continue
        if not Path(argument).is_dir():
            found.append((argument, name_of(argument)))
            continue
        inside = sorted(map(str, visible_summaries(Path(argument))))
        if not inside:
            raise UsageError(f"{argument}: no summary slides ({SUFFIX}) in this folder")
        found += [(path, Path(path).relative_to(argument).as_posix()) for path in inside]
    return found


def real_path(path: str) -> str:
    """What two names of one file share; an address stays as it is."""
    return path if "://" in path else os.path.realpath(path)


def is_folder(argument: str) -> bool:
    """Whether an argument is a folder, here or in a store."""
    return is_remote_folder(argument) or Path(argument).is_dir()


def refuse_addresses(arguments: list[str]) -> None:
    """Raise UsageError where a summary is not on disk."""
    from wsisum_cli.slides.remote.url import is_url, shown

    for argument in filter(is_url, arguments):
        raise UsageError(f"{shown(argument)}: expected a path; inspect, verify, export and features take addresses")


def is_remote_folder(argument: str) -> bool:
    """Whether an argument is the address of a folder in a store: it does not end as a summary does."""
    from wsisum_cli.slides.remote.url import STORES
    from wsisum_cli.summary.container import SUFFIX

    scheme, separator, _ = argument.partition("://")
    return bool(separator) and scheme.lower() in STORES and not argument.endswith(SUFFIX)


def remote_summaries(argument: str) -> list[tuple[str, str]]:
    """As `named_summaries`, of a folder of a store. Raises UsageError, SummaryError."""
    from wsisum_cli.slides.remote.url import Address, parse_place
    from wsisum_cli.summary.container import SUFFIX, find_summaries

    folder = parse_place(argument)
    assert isinstance(folder, Address)
    start = len(folder.key) + 1 if folder.key else 0
    found = [one for one in find_summaries(argument) if isinstance(one, Address)]
    if not found:
        raise UsageError(f"{folder}: no summary slides ({SUFFIX}) in this folder")
    return [(one.url, one.key[start:]) for one in found]


def mirrored_paths(arguments: list[str], output: Path) -> dict[Path, Path]:
    """As `mirrored_names`, of files alone. Raises UsageError for an address."""
    refuse_addresses(arguments)
    return {Path(path): name for path, name in mirrored_names(arguments, output).items()}


def mirrored_names(arguments: list[str], output: Path) -> dict[str, Path]:
    """Each summary, and its path within a folder of outputs: a folder's tree is mirrored. Raises UsageError.

    What an earlier command left in `output`, a folder within one that is searched, is left out.
    """
    found: dict[str, Path] = {}
    for argument in arguments:
        if is_remote_folder(argument) or not Path(argument).is_dir():
            found |= {path: Path(name) for path, name in named_summaries([argument])}
            continue
        root, made = Path(argument), output.resolve()
        apart = made == root.resolve() or not made.is_relative_to(root.resolve())
        paths = [Path(path) for path in all_summaries([argument])]
        own = [path for path in paths if apart or not path.resolve().is_relative_to(made)]
        if not own:
            raise UsageError(
                f"{argument}: all its summaries lie in the output folder {output}; choose another --output"
            )
        found |= {str(path): path.relative_to(root) for path in own}
    return found


def summaries_instead_of_slides(source: Path, output: Path) -> bool:
    """Whether `source` is a summary, or a folder with summaries and without slides. Raises UsageError."""
    from wsisum_cli.archive.formats import is_summary
    from wsisum_cli.archive.walk import find_slides
    from wsisum_cli.summary.container import visible_summaries

    if source.is_file():
        return is_summary(source)
    if not source.is_dir() or next(visible_summaries(source), None) is None:  # else all files would be looked at twice
        return False
    return not find_slides(source, output)[0]


def model_finders(
    encoder: str | None, summarizer: str | None, slide_encoder: str | None, device: str
) -> tuple[FindEncoder, FindSummarizer, FindSlideEncoder]:
    """Functions that find the model of a card among the given, bundled and user's models."""

    def load_encoder(path: Path) -> Encoder:
        from wsisum_cli.models import encoder

        return encoder.load_encoder(path, device)

    def load_summarizer(path: Path) -> Summarizer:
        from wsisum_cli.models import summarizer

        return summarizer.load_summarizer(path, device)

    def load_slide_encoder(path: Path) -> SlideEncoder:
        from wsisum_cli.models import slide_encoder

        return slide_encoder.load_slide_encoder(path, device)

    return (
        # For features from another program, only the user knows that this encoder made them.
        model_finder(encoder, load_encoder, serves_unknown=True),
        model_finder(summarizer, load_summarizer),
        model_finder(slide_encoder, load_slide_encoder),
    )


def model_finder(
    given: str | None, load: Callable[[Path], Model], serves_unknown: bool = False
) -> Callable[[ModelCard | NamedEncoder], Model | None]:
    """Finds the model of a card by its sha256, the one given first; none is hashed or loaded before it is needed."""
    from wsisum_cli.models.places import find_model, shipped_models, user_folder, user_models
    from wsisum_cli.slides.source import sha256_of
    from wsisum_cli.summary.attributes import NamedEncoder

    own = find_model(given, [user_folder()]) if given else None
    paths = [*([own] if own else []), *shipped_models().values(), *user_models(user_folder()).values()]
    loaded = cache(load)

    @cache
    def digest(path: Path) -> str | None:
        try:
            return sha256_of(path)
        except OSError:  # keep searching the other models
            return None

    def find(card: ModelCard | NamedEncoder) -> Model | None:
        if own is not None and serves_unknown and isinstance(card, NamedEncoder):
            return loaded(own)
        path = next((path for path in paths if digest(path) == getattr(card, "sha256", None)), None)
        return loaded(path) if path is not None else None

    return find
