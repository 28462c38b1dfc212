"""Turn an archive of whole-slide images into small, verified summary slides."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsisum_cli.archive.door import compress, verify
    from wsisum_cli.evaluation.dataset import SummaryDataset as SummaryDataset
    from wsisum_cli.summary.reader import iter_summaries, open_summary

__version__ = "0.1.0"
__all__ = ["__version__", "compress", "iter_summaries", "open_summary", "verify"]

#: Where each name lives. `SummaryDataset` alone needs torch.
_HOMES = {
    "SummaryDataset": "wsisum_cli.evaluation.dataset",
    "compress": "wsisum_cli.archive.door",
    "iter_summaries": "wsisum_cli.summary.reader",
    "open_summary": "wsisum_cli.summary.reader",
    "verify": "wsisum_cli.archive.door",
}


def __getattr__(name: str) -> Any:
    """What other programs use, imported when it is first asked for: `import wsisum_cli` stays fast."""
    if name in _HOMES:
        from importlib import import_module

        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(f"{name} needs PyTorch: pip install 'wsisum[train]'", name="torch") from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
