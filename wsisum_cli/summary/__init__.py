"""The summary slide: its format, its writer and its reader. Arrays and attributes go in, one `.ozx` file comes out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsisum_cli.summary.reader import open_summary

__all__ = ["open_summary"]


def __getattr__(name: str) -> Any:
    """Import `open_summary` on first use."""
    if name == "open_summary":
        from wsisum_cli.summary.reader import open_summary

        return open_summary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
