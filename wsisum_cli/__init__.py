"""Turn an archive of whole-slide images into small, verified summary slides."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsisum_cli.summary.reader import iter_summaries, open_summary

__version__ = "0.1.0"
__all__ = ["__version__", "iter_summaries", "open_summary"]


def __getattr__(name: str) -> Any:
    """What other programs use, imported when it is first asked for: `import wsisum_cli` stays fast."""
    if name in ("iter_summaries", "open_summary"):
        from wsisum_cli.summary import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
