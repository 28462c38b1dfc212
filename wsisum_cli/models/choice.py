"""Which summarizer and slide encoder go with an encoder; settled by their cards, before any slide is read."""

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
    """A summarizer or slide encoder that is to be used."""

    path: Path
    card: SummarizerCard | SlideEncoderCard
    named: bool  # by the user; else found to fit the encoder, and good for features of that encoder only

    def fits_features(self, encoder_sha256: str | None) -> bool:
        """Whether it is for features of the encoder of this sha256; None where nobody knows which made them."""
        return fits_features(self.card, self.named, encoder_sha256)


@dataclass(frozen=True)
class ModelChoices:
    """The models that are to see whole slides; None where none is used."""

    summarizer: ModelChoice | None = None
    slide_encoder: ModelChoice | None = None
    missing: Mapping[str, str] = field(default_factory=dict)  # why there is none of those looked for, by name

    def load(self, device: str) -> SlideModels:
        """Raises ModelError when a file cannot serve, DeviceError when "cuda" does not become active."""
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
        """By the names that attributes have for them."""
        return {"summarizer": self.summarizer, "slide_encoder": self.slide_encoder}

    def describe(self) -> str:
        """One line for a log."""
        return ", ".join(
            f"{name.replace('_', ' ')}: {choice.card.name if choice is not None else self._none(name)}"
            for name, choice in self.named().items()
        )

    def _none(self, name: str) -> str:
        return f"{NONE} ({self.missing[name]})" if name in self.missing else NONE


NO_MODEL_CHOICES = ModelChoices()


def read_encoder_card(path: Path) -> Card:
    """An encoder's card without loading it. Raises ModelError."""
    # Whether the graph takes uint8 decides what its card must say of mean and std, which nobody needs here.
    return parse_card(read_fields(read_metadata(path), path.name), True, sha256_of(path))


def read_slide_card(path: Path, kind: str) -> SummarizerCard | SlideEncoderCard:
    """The card of a summarizer or slide encoder without loading it. Raises ModelError, also for another kind."""
    fields = read_fields(read_metadata(path), path.name, kind)
    fields.check_kind(kind)  # before the file is hashed
    parse = parse_summarizer_card if kind == SUMMARIZER else parse_slide_encoder_card
    return parse(fields, sha256_of(path))


def choose_models(
    summarizer: str, slide_encoder: str, encoder: Path, given: bool, keep: int | None, folders: Sequence[Path] = ()
) -> ModelChoices:
    """What was asked for of each kind: a name, a path, AUTO or NONE; see `choose`."""
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
        return f"they see at most {MOST_KEPT} patches"
    return f"none fits the features of {encoder.name!r}"


def is_too_many(kind: str, keep: int | None) -> bool:
    return kind == SUMMARIZER and keep is not None and keep > MOST_KEPT


def choose(
    kind: str, asked: str, encoder: Card, given: bool, keep: int | None, folders: Sequence[Path] = ()
) -> ModelChoice | None:
    """The model of a `kind` for an encoder: the one `asked` for by name or path; by AUTO the first that was trained
    on that encoder, of the shipped ones, then of the user's `folders`; by NONE, or where nothing fits, None.

    `given` is whether features were computed before, by whatever encoder; `keep` how many patches are to be kept.
    Raises ModelError when the one asked for cannot serve, UsageError when it does not fit.
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
            f"for {card.dims}; name one trained on that encoder, or --{kind} auto"
        )
    return ModelChoice(path, card, named=True)


def fitting_models(kind: str, encoder_sha256: str, dims: int, folders: Sequence[Path]) -> Iterator[ModelChoice]:
    """Models trained on the encoder of that sha256, by features of `dims` numbers; what cannot be read is passed over.

    A model that hides another of its name stands in its place, as `find_model` has it.
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
    """The models that see a whole slide's features; None where none is used."""

    summarizer: Summarizer | None = None
    slide_encoder: SlideEncoder | None = None
    #: Names of those that nobody asked for: they were found to fit an encoder, and serve its features only.
    implicit: frozenset[str] = frozenset()

    def for_features_of(self, encoder_sha256: str | None) -> SlideModels:
        """Those that serve features of the encoder of this sha256; None where nobody knows which made them."""
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
    """Whether a model is for features of the encoder of this sha256; one that the user named always is."""
    return named or card.encoder_sha256 == encoder_sha256
