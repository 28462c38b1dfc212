"""Text of unknown origin, made safe to print: the one home for it.

Names, notes and models in a summary are what its writer chose. Control characters can drive a terminal, and marks that
turn the direction of text can make a line read as another.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

#: Characters of a name, a note or a message that are shown at most.
LONGEST = 2_000
#: What is no plain ASCII, and no line break.
OTHER = re.compile(r"[^\x20-\x7e\n]")


def printable(text: str) -> str:
    """Text in one line, with escapes for all that is not printed as it is; very long text is cut."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """The same of text in several lines, of any length; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain_json(value: Any) -> str:
    """JSON that says the same to a program, and that a terminal only shows."""
    return plain_json_text(json.dumps(value, ensure_ascii=False, indent=1))


def plain_json_text(text: str) -> str:
    """The same of text that is JSON already."""
    return OTHER.sub(escaped, text)


def escaped(found: re.Match[str]) -> str:
    """A character as it is, or as JSON escapes it where a terminal may act on it."""
    plain = found[0].isprintable() or unicodedata.category(found[0]) == "Zs"
    return found[0] if plain else json.dumps(found[0])[1:-1]
