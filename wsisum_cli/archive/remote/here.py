"""Where the outputs of a run go: a folder here, or one that stands for a place elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsisum_cli.pipeline.product import Product


@dataclass(frozen=True)
class Outputs:
    """A folder on disk. Paths are those of outputs in the run's output folder."""

    @property
    def are_here(self) -> bool:
        """Whether they stay in the run's output folder."""
        return True

    def is_there(self, output: Path) -> bool:
        return output.is_file()

    def size(self, output: Path) -> int:
        """In bytes."""
        return output.stat().st_size

    def provenance(self, product: Product, output: Path) -> Any:
        """How an output was made. Raises WsisumError, OSError, ValueError where it cannot be read."""
        return product.provenance(output)

    def is_whole(self, product: Product, output: Path) -> bool:
        """Raises WsisumError where it cannot be read."""
        return product.is_whole(output)

    def shown(self, output: Path) -> str:
        """For messages."""
        return str(output)

    def publish(self, output: Path, product: Product) -> str:  # noqa: ARG002 - it is there already
        """Put a finished output in its place. Raises RemoteError, AccessError, OSError.

        Returns where the output of another slide is kept that was there before, as a path within their folder; else
        empty.
        """
        return ""

    def fetch_run_files(self) -> None:
        """Bring reports and what else earlier runs wrote about themselves into the folder, before a run is planned."""

    def keep_run_files(self) -> None:
        """Put those in their place that were written since. Raises RemoteError, AccessError, OSError."""


HERE = Outputs()
