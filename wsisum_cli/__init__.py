"""Turn an archive of whole-slide images into small, verified summary slides."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsisum_cli.summary.reader import open_summary

__version__ = "0.1.0"
__all__ = ["__version__", "open_summary"]


def __getattr__(name: str) -> Any:
    """`open_summary`, imported when it is first asked for: `import wsisum_cli` stays fast."""
    if name == "open_summary":
        from wsisum_cli.summary.reader import open_summary

        return open_summary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
