"""The exception tree. Each error names the file, what was expected, what was found and what to do.

WsisumError
├── SlideError              one slide cannot be summarized; its outcome is `failed`
│   ├── NotASlideError      the file is no whole-slide image; its outcome is `skipped`
│   ├── SeveralSlidesError  the file holds several slides; each has an outcome of its own
│   ├── MppError            no pixel size, or an implausible one
│   ├── ColourError         the colours cannot be those of a stained slide
│   ├── TileError           one tile cannot be read or decoded
│   ├── BrokenSlideError    too many tiles cannot be read
│   ├── ChangedSlideError   a file of the slide changed while it was read
│   ├── FeaturesError       existing features do not belong to the slide
│   ├── MaskError           a given mask cannot be used
│   ├── UnnamedError        the slide has no name that may be used
│   ├── TooFewBytesError    not even one patch fits into so few bytes
│   ├── RemoteError         something remote cannot be fetched, or not be put in its place
│   └── NoTissueError       nothing to summarize; its outcome is `skipped`
├── SummaryError            a summary slide cannot be read
│   └── UnreachableError    a remote one: its store does not answer, or refuses to
├── ModelError              an ONNX file cannot serve as a model
├── DeviceError             the device asked for is not active
├── AccessError             a store refuses the credentials, or there are none; the run ends
└── UsageError              the command could not start
"""

from __future__ import annotations


class WsisumError(Exception):
    """Base of everything this package raises on purpose."""

    #: A few stable words for reports and scripts, where the class's own do not say enough.
    reason = "error"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class SlideError(WsisumError):
    """One slide cannot be summarized."""

    reason = "unreadable"


class NotASlideError(SlideError):
    """The file is no brightfield whole-slide image; `reason` says what it is instead."""

    reason = "not a slide"


class SeveralSlidesError(SlideError):
    """One file holds several slides, and which of them to open was not said."""

    reason = "several slides"

    def __init__(self, name: str, count: int) -> None:
        super().__init__(f"{name}: holds {count} slides; expected one, or the number of one of them")
        self.name, self.count = name, count

    def __reduce__(self) -> tuple[type[SeveralSlidesError], tuple[str, int]]:
        return type(self), (self.name, self.count)


class MppError(SlideError, ValueError):
    """The pixel size is missing, implausible, or not what the encoder needs."""

    reason = "no pixel size"


class ColourError(SlideError, ValueError):
    """The colours read cannot be those of a stained slide."""

    reason = "implausible colours"


class TileError(SlideError, OSError):
    """One tile cannot be read or decoded."""

    reason = "broken tile"


class BrokenSlideError(SlideError, OSError):
    """More tiles are broken than a summary may leave out."""

    reason = "broken tiles"


class ChangedSlideError(SlideError, OSError):
    """A file of the slide was written to or replaced while the slide was read."""

    reason = "changed while it was read"


class FeaturesError(SlideError, ValueError):
    """Existing features do not belong to the slide."""

    reason = "features do not fit"


class MaskError(SlideError, ValueError):
    """A given mask cannot be used."""

    reason = "mask does not fit"


class UnnamedError(SlideError):
    """The manifest alone names outputs, and it has no name for the slide."""

    reason = "no name in the manifest"


class TooFewBytesError(SlideError, ValueError):
    """Not even a summary of one patch fits into the bytes allowed."""

    reason = "too few bytes"


class RemoteError(SlideError, OSError):
    """Something remote cannot be fetched, or not be put in its place."""

    reason = "cannot be fetched"


class NoTissueError(SlideError):
    """There is no tissue to summarize."""

    reason = "no tissue"


class SummaryError(WsisumError, OSError):
    """A summary slide cannot be read."""

    reason = "unreadable summary"


class UnreachableError(SummaryError):
    """A remote summary cannot be fetched, which says nothing of the summary."""

    reason = "cannot be reached"


class ModelError(WsisumError, ValueError):
    """An ONNX file cannot serve as a model."""

    reason = "unusable model"


class DeviceError(WsisumError, RuntimeError):
    """The device asked for is not active."""

    reason = "device not active"


class AccessError(WsisumError, OSError):
    """A store refuses the credentials, or there are none: no slide of it can be read."""

    reason = "no access"


class CodecError(WsisumError):
    """A library of this machine lacks a codec, which says nothing of the file."""

    reason = "missing codec"


class UsageError(WsisumError, ValueError):
    """The command could not start."""

    reason = "could not start"
