"""What pydantic finds wrong with data, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

#: Kind of error -> what was expected. Braces name entries of the error's context.
EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "an object",
    "enum": "one of {expected}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "a list",
    "literal_error": "one of {expected}",
    "model_type": "an object",
    "none_required": "null",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_type": "text",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "tuple_type": "a list",
    "union_tag_invalid": "one of {expected_tags}",
    "union_tag_not_found": "an object that says which kind it is",
    "value_error": "{error}",
}
LONGEST = 40  # characters of a value that messages quote


def plain_errors(error: ValidationError, unions: frozenset[str] = frozenset()) -> Iterator[str]:
    """One line for each error: the dotted path, what was expected, what was found.

    `unions` are the names of fields that are one of several models, behind which pydantic puts the one it tried.
    """
    for detail in error.errors(include_url=False):
        parts = detail["loc"][:1] + tuple(part for before, part in pairwise(detail["loc"]) if before not in unions)
        path = ".".join(map(str, parts))
        if detail["type"] == "missing":
            yield f"{path} is missing"
        else:
            yield f"{path}: expected {expected(detail)}, found {quoted(detail['input'])}"


def expected(detail: ErrorDetails) -> str:
    """What pydantic wanted, without its own phrases."""
    words = EXPECTED.get(detail["type"], "another value")
    return words.format(**detail.get("ctx", {}))


def quoted(value: Any) -> str:
    """The value as messages show it, cut short."""
    found = repr(value)
    return found if len(found) <= LONGEST else found[: LONGEST - 3] + "..."
