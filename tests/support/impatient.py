"""The command line, whose failed requests are tried as often as ever, but at once.

A file of its own, since worker processes run it too.
"""

from __future__ import annotations

from wsisum_cli.slides.remote import store

store.WAITS = tuple(0.001 * number for number in range(1, len(store.WAITS) + 1))  # type: ignore[assignment]

if __name__ == "__main__":
    from wsisum_cli.commands.main import main

    main()
