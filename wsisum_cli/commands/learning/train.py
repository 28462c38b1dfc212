"""`wsisum train`: train an encoder, a summarizer or a slide encoder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from wsisum_cli.commands.options import INTERRUPTED, Device, PlainCommand, command_group
from wsisum_cli.errors import UsageError
from wsisum_cli.models.places import user_folder

if TYPE_CHECKING:
    from wsisum_cli.training.data import Cases, TrainingData
    from wsisum_cli.training.summarizer.targets import Targets
    from wsisum_cli.training.summarizer.train import Options

# Heavy modules are imported where they are used: --help must answer at once.

#: What the extra `train` brings.
NEEDED = ("torch", "onnx", "onnxscript", "matplotlib")

train_app = command_group("Train models on tiles and features of your slides.")


@train_app.callback()
def options_of_all() -> None:
    """Train models on tiles and features of your slides."""


class Precision(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


# What several trainings take.
FeaturesOption = Annotated[
    list[Path], typer.Option(help="Folder of h5 features; repeatable.", exists=True, file_okay=False)
]
RunOption = Annotated[Path, typer.Option("--output", "-o", help="Run folder; an interrupted run resumes there.")]
HoldoutOption = Annotated[
    float, typer.Option(min=0, max=0.9, help="Fraction of the slides to hold out, by whole cases.")
]
CaseRegexOption = Annotated[
    str | None, typer.Option(help="Regular expression for the case in a slide's name: its first group, or the match.")
]
CasesOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns slide, case.", exists=True, dir_okay=False)
]
RateOption = Annotated[float, typer.Option(min=1e-7, max=1, help="Peak learning rate.")]
DecayOption = Annotated[float, typer.Option(min=0, max=10, help="Weight decay of the matrices.")]
DepthOption = Annotated[int, typer.Option(min=1, max=48, help="Number of encoder blocks.")]
PrecisionOption = Annotated[
    Precision, typer.Option(help="Numeric precision; bf16 is faster where the hardware has it.")
]
DeviceOption = Annotated[Device, typer.Option(help="Device to train on.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Random seed.")]
CardOption = Annotated[str, typer.Option(help="Entry in the model's card.")]
LicenceOption = Annotated[str, typer.Option(help="Licence of the model, preferably its SPDX name.")]


def need_torch(what: str = "training") -> None:
    """Raises UsageError where the extra `train` is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs {', '.join(missing)}: pip install 'wsisum[train]'")


@contextmanager
def interruptible() -> Iterator[None]:
    """Exit code 130 on Ctrl-C, with a word on how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to go on", err=True)
        raise typer.Exit(INTERRUPTED) from None


def show_reading(done: int, total: int) -> None:
    if done == total or done % 10 == 0:
        typer.echo(f"read {done} of {total} slides", err=True)


def show_taught(tiles: int, total: int) -> None:
    typer.echo(f"the teacher has seen {tiles} of {total} tiles", err=True)


def show_parts(done: int, total: int) -> None:
    if done == total or done % 10 == 0:
        typer.echo(f"embedded parts of {done} of {total} slides", err=True)


def show_epoch(epoch: int, epochs: int, metrics: Mapping[str, float]) -> None:
    """One line for each epoch."""
    shown = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in metrics.items() if name != "epoch")
    typer.echo(f"epoch {epoch} of {epochs}  {shown}", err=True)


@train_app.command(cls=PlainCommand)
def summarizer(
    features: FeaturesOption,
    output: RunOption,
    teacher: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR with slide embeddings of a teacher; repeatable.")
    ] = None,
    slide_encoder: Annotated[
        str | None,
        typer.Option(help="Name or ONNX file of the slide encoder to use as target if there are no teachers."),
    ] = None,
    embedding_dims: Annotated[
        int | None,
        typer.Option(min=1, max=8192, help="Length of the fused target (default: as long as the teachers allow)."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=8, max=4096, help="Maximum number of candidates drawn from a slide.")
    ] = 500,
    mask_ratio: Annotated[float, typer.Option(min=0.5, max=0.97, help="Fraction of the candidates to mask.")] = 0.875,
    holdout: HoldoutOption = 0.2,
    case_regex: CaseRegexOption = None,
    cases: CasesOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 20,
    patience: Annotated[
        int, typer.Option(min=0, help="Epochs without improvement before stopping; 0 never stops.")
    ] = 8,
    draws: Annotated[int, typer.Option(min=1, help="Draws from each slide in an epoch.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Draws in a batch, per process.")] = 8,
    learning_rate: RateOption = 5e-4,
    weight_decay: DecayOption = 0.05,
    width: Annotated[int, typer.Option(min=8, max=2048, help="Width of the encoder's tokens.")] = 96,
    depth: DepthOption = 2,
    components: Annotated[int, typer.Option(min=1, max=1024, help="Principal components of a token.")] = 64,
    pool: Annotated[int, typer.Option(min=8, help="Patches of a slide to keep in memory, drawn by cluster.")] = 4096,
    precision: PrecisionOption = Precision.auto,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
    name: CardOption = "summarizer",
    version: CardOption = "1",
    licence: LicenceOption = "not for distribution",
    description: CardOption = "",
) -> None:
    """Train a summarizer (WSISum) on features of slides.

    It learns to reconstruct masked patch features and a slide embedding.

    Writes OUTPUT/summarizer.onnx, with curves, metrics and a checkpoint beside it. Use torchrun for several GPUs.
    """
    need_torch()
    from wsisum_cli.training.data import read_cases
    from wsisum_cli.training.loop import Settings
    from wsisum_cli.training.summarizer.masking import Masking
    from wsisum_cli.training.summarizer.train import CardText, Options, check_width, train_summarizer

    check_width(width)
    if embedding_dims is not None and not teacher:
        raise UsageError("--embedding-dims: expected --teacher, whose embeddings are fused; give one, or leave it out")
    options = Options(
        masking=Masking(candidates, mask_ratio),
        settings=Settings(
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            patience=patience,
            precision=precision.value,
            device=device.value,
            seed=seed,
            judge_start=True,
        ),
        holdout=holdout,
        draws=draws,
        batch_size=batch_size,
        components=components,
        width=width,
        depth=depth,
    )
    archive = Archive(features, read_cases(cases, case_regex), pool)
    with interruptible():
        data, targets = read_training(archive, teacher or [], slide_encoder, embedding_dims, output, options)
        card = train_summarizer(
            data, targets, output, options, CardText(name, version, licence, description), show_epoch
        )
    if card is not None:
        typer.echo(card["description"], err=True)
        typer.echo(output / "summarizer.onnx")


class Archive(NamedTuple):
    """Where slides are read from."""

    folders: list[Path]
    cases: Cases
    pool: int


def read_training(
    archive: Archive,
    teachers: list[str],
    slide_encoder: str | None,
    embedding_dims: int | None,
    folder: Path,
    options: Options,
) -> tuple[TrainingData, Targets]:
    """The slides, and what their embeddings are to be. Raises UsageError where there is no target, or are two kinds."""
    from wsisum_cli.models.slide_encoder import load_slide_encoder
    from wsisum_cli.training.data import read_slides
    from wsisum_cli.training.summarizer.targets import SlideEncoderTargets, teacher_targets
    from wsisum_cli.training.summarizer.teachers import parse_teachers
    from wsisum_cli.training.summarizer.train import split

    if teachers and slide_encoder is not None:
        raise UsageError("--teacher and --slide-encoder: expected one kind of target for slide embeddings, found both")
    given = parse_teachers(teachers)
    path = None if teachers else target_encoder(slide_encoder, archive.folders)
    encoding = SlideEncoderTargets(load_slide_encoder(path)) if path is not None else None
    data = read_slides(
        *archive,
        cache=folder / "clusters",
        seed=options.settings.seed,
        visit=encoding.visit if encoding else lambda name, features, coords: None,
        progress=show_reading,
    )
    training = split(data, options)[0]
    if encoding is not None:
        return data, encoding.targets(data, training, options.settings.seed, show_parts)
    return data, teacher_targets(given, data, [slide.name for slide in training], embedding_dims)


def target_encoder(asked: str | None, folders: list[Path]) -> Path:
    """The slide encoder that was asked for, else one that was trained on the encoder of the first features file.

    Raises UsageError where there is none.
    """
    from wsisum_cli.features.h5 import read_feature_file
    from wsisum_cli.models.card import SLIDE_ENCODER
    from wsisum_cli.models.choice import fitting_models
    from wsisum_cli.models.places import find_model
    from wsisum_cli.training.data import find_files

    if asked is not None:
        return find_model(asked, [user_folder()])
    file = read_feature_file(next(iter(find_files(folders).values())))
    found = next(
        fitting_models(SLIDE_ENCODER, file.encoder_sha256 or "", file.features.shape[1], [user_folder()]), None
    )
    if found is None or file.encoder_sha256 is None:
        raise UsageError(
            "expected a target for slide embeddings, and no slide encoder at hand fits these features: train one "
            "(wsisum train slide-encoder) and give it as --slide-encoder FILE, or give --teacher NAME=DIR"
        )
    typer.echo(f"slide encoder: {found.card.name}", err=True)
    return found.path


class Method(StrEnum):
    simclr = "simclr"
    byol = "byol"
    pupil = "pupil"


@train_app.command(cls=PlainCommand)
def encoder(
    tiles: Annotated[
        list[Path],
        typer.Option(help="ZIP file of JPEG tiles, summary slide, or folder of these; repeatable.", exists=True),
    ],
    output: RunOption,
    method: Annotated[
        Method, typer.Option(help="simclr and byol compare two views of a tile; pupil learns from --teacher.")
    ] = Method.simclr,
    teacher: Annotated[
        Path | None, typer.Option(help="ONNX patch encoder to learn from.", exists=True, dir_okay=False)
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Run folder of an encoder to start a pupil from.", exists=True, file_okay=False)
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs (100 batches each).")] = 24,
    slides: Annotated[int, typer.Option(min=1, help="Slides in a batch.")] = 8,
    tiles_each: Annotated[int, typer.Option(min=2, help="Tiles from each slide of a batch.")] = 32,
    learning_rate: RateOption = 1e-3,
    dims: Annotated[int, typer.Option(min=2, max=430, help="Length of the features.")] = 384,
    precision: PrecisionOption = Precision.auto,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
    name: CardOption = "encoder",
    version: CardOption = "1",
    licence: LicenceOption = "not for distribution",
    description: CardOption = "",
) -> None:
    """Train a patch encoder without labels on tiles of slides.

    Tiles are 256 px wide, at 0.5 µm per px.

    Writes OUTPUT/encoder.onnx, with curves, metrics and a checkpoint beside it.
    """
    if method == Method.pupil and teacher is None:
        raise UsageError(
            "--method pupil: expected --teacher FILE to learn from, found none; give an ONNX patch encoder"
        )
    if method != Method.pupil and (teacher or start):
        raise UsageError(
            f"--teacher, --start: expected --method pupil, found {method.value}; say so, or leave them out"
        )
    need_torch()
    from wsisum_cli.training.encoder.teaching import TeachingSettings, train_pupil
    from wsisum_cli.training.encoder.train import Settings, train_encoder
    from wsisum_cli.training.loop import Settings as Training

    settings = Settings(method=method.value, slides=slides, tiles=tiles_each, seed=seed, dims=dims)
    training = Training(
        epochs=epochs,
        learning_rate=learning_rate,
        weight_decay=1e-4,
        precision=precision.value,
        device=device.value,
        seed=seed,
    )
    card = {"name": name, "version": version, "licence": licence, "description": description}
    with interruptible():
        if teacher is None:
            path = train_encoder(tiles, output, settings, training, card, show_epoch)
        else:
            teaching = TeachingSettings(teacher, start)
            path = train_pupil(tiles, output, teaching, settings, training, card, show_epoch, show_taught)
    if path is not None:
        typer.echo(path)


@train_app.command(cls=PlainCommand)
def slide_encoder(
    features: FeaturesOption,
    output: RunOption,
    prototypes: Annotated[int, typer.Option(min=1, max=64, help="Prototypes of a slide.")] = 4,
    neighbours: Annotated[int, typer.Option(min=0, max=64, help="Similar slides that each region learns from.")] = 1,
    holdout: HoldoutOption = 0.2,
    case_regex: CaseRegexOption = None,
    cases: CasesOption = None,
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs; the last weights are kept.")] = 20,
    regions: Annotated[int, typer.Option(min=1, help="Regions from each slide in an epoch.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Regions in a batch, per process.")] = 24,
    learning_rate: RateOption = 5e-4,
    weight_decay: DecayOption = 0.05,
    width: Annotated[int, typer.Option(min=8, max=2048, help="Width of a region's embedding.")] = 128,
    depth: DepthOption = 2,
    components: Annotated[int, typer.Option(min=1, max=4096, help="Principal components of the patch features.")] = 96,
    precision: PrecisionOption = Precision.auto,
    device: DeviceOption = Device.auto,
    seed: SeedOption = 0,
    name: CardOption = "slide_encoder",
    version: CardOption = "1",
    licence: LicenceOption = "not for distribution",
    description: CardOption = "",
) -> None:
    """Train a slide encoder (SLPD) on features of slides.

    It learns from regions of a slide, its prototypes, and those of similar slides.

    Writes OUTPUT/slide_encoder.onnx, with curves, metrics and a checkpoint beside it. Use torchrun for several GPUs.
    """
    need_torch()
    from wsisum_cli.training.data import read_cases
    from wsisum_cli.training.loop import Settings
    from wsisum_cli.training.slide_encoder.distillation import DistillationSettings
    from wsisum_cli.training.slide_encoder.train import Options, read_archive, train_slide_encoder
    from wsisum_cli.training.summarizer.train import CardText

    options = Options(
        distilling=DistillationSettings(prototypes, neighbours, regions_per_slide=regions, batch=batch_size),
        settings=Settings(
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            precision=precision.value,
            device=device.value,
            seed=seed,
        ),
        holdout=holdout,
        components=components,
        width=width,
        depth=depth,
    )
    with interruptible():
        archive = read_archive(features, read_cases(cases, case_regex), show_reading)
        card = train_slide_encoder(archive, output, options, CardText(name, version, licence, description), show_epoch)
    if card is not None:
        typer.echo(card["description"], err=True)
        typer.echo(output / "slide_encoder.onnx")
