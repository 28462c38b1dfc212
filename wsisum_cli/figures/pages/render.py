"""Templates to one HTML file that loads nothing. The only room that imports jinja2."""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisum_cli.summary.container import writing_aside
from wsisum_cli.summary.limits.plain_text import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Templates that escape every value, control characters in it included."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def finalize(value: Any) -> Any:
    """Make a value safe to show: text loses control characters and marks that turn its direction."""
    return printable(value) if type(value) is str else value


def render(template: str, values: dict[str, Any], script: str | None = None) -> str:
    """The page that `template` makes of `values`, with the common style and this `script` of the templates' folder.

    Its policy allows nothing but that style, that script and the images in it. The same values give the same text.
    """
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    code = (TEMPLATES / script).read_text(encoding="utf-8") if script else ""
    own = {"style": markup(style), "script": markup(code), "policy": policy(style, code)}
    return environment().get_template(template).render(**values, **own)


def policy(style: str, script: str) -> str:
    """The content security policy: data: images, one style and one script, and no connection to anywhere."""
    scripts = f"'sha256-{digest(script)}'" if script else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest(style)}'; script-src {scripts}; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def markup(text: str) -> Markup:
    """Text that needs no escaping: of the templates' folder, or encoded here."""
    from markupsafe import Markup

    return Markup(text)


def data_uri(kind: str, data: bytes) -> str:
    """The bytes of an image of this kind, jpeg or png, as its own address. It is marked as escaped already."""
    return markup(f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def save_page(path: Path, text: str) -> None:
    """Write a page, atomically."""
    with writing_aside(path) as aside, open(aside, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
