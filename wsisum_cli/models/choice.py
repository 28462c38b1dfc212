"""Choose the summarizer and slide encoder for an encoder, from their cards, before any slide is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsisum_cli.errors import ModelError, UsageError
from wsisum_cli.models.card import (
    SLIDE_ENCODER,
    SUMMARIZER,
    Card,
    SlideEncoderCard,
    SummarizerCard,
    parse_card,
    parse_slide_encoder_card,
    parse_summarizer_card,
    read_fields,
)
from wsisum_cli.models.metadata import read_metadata
from wsisum_cli.models.places import find_model, shipped_models, user_models
from wsisum_cli.models.slide_encoder import SlideEncoder, load_slide_encoder
from wsisum_cli.models.summarizer import MOST_KEPT, Summarizer, load_summarizer
from wsisum_cli.slides.source import sha256_of

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class ModelChoice:
    """A summarizer or slide encoder to use."""

    path: Path
    card: SummarizerCard | SlideEncoderCard
    named: bool  # by the user; otherwise it was found automatically and only fits that encoder's features

    def fits_features(self, encoder_sha256: str | None) -> bool:
        """Whether it fits features of the encoder with this sha256; None if the encoder is unknown."""
        return fits_features(self.card, self.named, encoder_sha256)


@dataclass(frozen=True)
class ModelChoices:
    """The whole-slide models to use; None if none is used."""

    summarizer: ModelChoice | None = None
    slide_encoder: ModelChoice | None = None
    missing: Mapping[str, str] = field(default_factory=dict)  # name -> why none was found

    def load(self, device: str) -> SlideModels:
        """Load the models. Raises ModelError for an unusable file, DeviceError if "cuda" does not become active."""
        return SlideModels(
            load_summarizer(self.summarizer.path, device) if self.summarizer is not None else None,
            load_slide_encoder(self.slide_encoder.path, device) if self.slide_encoder is not None else None,
            frozenset(name for name, choice in self.named().items() if choice is not None and not choice.named),
        )

    def match(self, used: Mapping[str, str], encoder_sha256: str | None) -> bool:
        """Whether an output was made with these models.

        `used`: the sha256 of each model that it was made with, by kind. `encoder_sha256`: of the encoder of its
        features, None where nobody knows.
        """
        for name, choice in self.named().items():
            wanted = choice.card.sha256 if choice is not None and choice.fits_features(encoder_sha256) else None
            if used.get(name) != wanted:
                return False
        return True

    def named(self) -> dict[str, ModelChoice | None]:
        """The choices by attribute name."""
        return {"summarizer": self.summarizer, "slide_encoder": self.slide_encoder}

    def describe(self) -> str:
        """Describe the choices in one line for the log."""
        return ", ".join(
            f"{name.replace('_', ' ')}: {choice.card.name if choice is not None else self._none(name)}"
            for name, choice in self.named().items()
        )

    def _none(self, name: str) -> str:
        return f"{NONE} ({self.missing[name]})" if name in self.missing else NONE


NO_MODEL_CHOICES = ModelChoices()


def read_encoder_card(path: Path) -> Card:
    """Read an encoder's card without loading the model. Raises ModelError."""
    # takes_uint8=True makes mean and std optional; they are not needed here.
    return parse_card(read_fields(read_metadata(path), path.name), True, sha256_of(path))


def read_slide_card(path: Path, kind: str) -> SummarizerCard | SlideEncoderCard:
    """Read the card of a summarizer or slide encoder without loading it. Raises ModelError, also for another kind."""
    fields = read_fields(read_metadata(path), path.name, kind)
    fields.check_kind(kind)  # before hashing the file
    parse = parse_summarizer_card if kind == SUMMARIZER else parse_slide_encoder_card
    return parse(fields, sha256_of(path))


def choose_models(
    summarizer: str, slide_encoder: str, encoder: Path, given: bool, keep: int | None, folders: Sequence[Path] = ()
) -> ModelChoices:
    """Choose both models; each is given as a name, a path, AUTO or NONE. See `choose`."""
    if (summarizer, slide_encoder) == (NONE, NONE):
        return NO_MODEL_CHOICES
    card = read_encoder_card(encoder)
    found = ModelChoices(
        choose(SUMMARIZER, summarizer, card, given, keep, folders),
        choose(SLIDE_ENCODER, slide_encoder, card, given, keep, folders),
    )
    kinds = {"summarizer": (SUMMARIZER, summarizer), "slide_encoder": (SLIDE_ENCODER, slide_encoder)}
    missing = {
        name: why_none(kind, card, keep)
        for name, (kind, asked) in kinds.items()
        if asked == AUTO and found.named()[name] is None
    }
    return replace(found, missing=missing)


def why_none(kind: str, encoder: Card, keep: int | None) -> str:
    if is_too_many(kind, keep):
        return f"limited to {MOST_KEPT} patches"
    return f"none fits the features of {encoder.name!r}"


def is_too_many(kind: str, keep: int | None) -> bool:
    return kind == SUMMARIZER and keep is not None and keep > MOST_KEPT


def choose(
    kind: str, asked: str, encoder: Card, given: bool, keep: int | None, folders: Sequence[Path] = ()
) -> ModelChoice | None:
    """Choose the model of a `kind` for an encoder. `asked` is a name or path; AUTO, the first bundled model, then the
    first in the user's `folders`, trained on that encoder; or NONE. Returns None if there is none.

    `given` is whether existing features are used, by any encoder; `keep` is the number of patches to keep. Raises
    ModelError when the requested model is unusable, UsageError when it does not fit.
    """
    too_many = is_too_many(kind, keep)
    if asked == NONE or (asked == AUTO and too_many):
        return None
    if asked == AUTO:
        return next(fitting_models(kind, encoder.sha256, encoder.dims, folders), None)
    if too_many:
        raise UsageError(f"--keep: at most {MOST_KEPT} with a summarizer, found {keep}; or use --{kind} none")
    path = find_model(asked, folders)
    card = read_slide_card(path, kind)
    if not given and card.dims != encoder.dims:
        raise UsageError(
            f"--{kind} {path.name}: expected a model for the {encoder.dims} features of {encoder.name!r}, found one "
            f"for {card.dims}; use one trained on that encoder, or --{kind} auto"
        )
    return ModelChoice(path, card, named=True)


def fitting_models(kind: str, encoder_sha256: str, dims: int, folders: Sequence[Path]) -> Iterator[ModelChoice]:
    """Yield models trained on the encoder with that sha256 and `dims` features, skipping unreadable ones.

    A user's model hides a bundled one with its name, as in `find_model`.
    """
    models = shipped_models()
    for folder in reversed(folders):
        models |= user_models(folder)
    for path in models.values():
        try:
            card = read_slide_card(path, kind)
        except (ModelError, OSError):
            continue
        if (card.encoder_sha256, card.dims) == (encoder_sha256, dims):
            yield ModelChoice(path, card, named=False)


@dataclass(frozen=True)
class SlideModels:
    """The loaded whole-slide models; None if none is used."""

    summarizer: Summarizer | None = None
    slide_encoder: SlideEncoder | None = None
    #: Names of models found automatically: they only fit the features of one encoder.
    implicit: frozenset[str] = frozenset()

    def for_features_of(self, encoder_sha256: str | None) -> SlideModels:
        """The models that fit features of the encoder with this sha256; None if the encoder is unknown."""
        summarizer, slide_encoder = self.summarizer, self.slide_encoder
        if summarizer is not None and not fits_features(
            summarizer.card, "summarizer" not in self.implicit, encoder_sha256
        ):
            summarizer = None
        named = "slide_encoder" not in self.implicit
        if slide_encoder is not None and not fits_features(slide_encoder.card, named, encoder_sha256):
            slide_encoder = None
        return SlideModels(summarizer, slide_encoder, self.implicit)


NO_MODELS = SlideModels()


def fits_features(card: SummarizerCard | SlideEncoderCard, named: bool, encoder_sha256: str | None) -> bool:
    """Whether a model fits features of the encoder with this sha256; a model the user named always does."""
    return named or card.encoder_sha256 == encoder_sha256
