"""What a page of HTML holds, and what every page of ours must be."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = {"meta", "link", "input", "img", "br", "hr"}
#: Attributes whose value a browser may load, or send something to.
ADDRESSES = {
    *("href", "xlink:href", "src", "srcset", "action", "formaction", "poster", "data", "ping", "cite", "background"),
    *("manifest", "longdesc", "usemap", "classid", "codebase", "imagesrcset"),
}


#: What a script could reach the network with, or make text into tags.
REACHES = (
    *("fetch", "XMLHttpRequest", "WebSocket", "EventSource", "sendBeacon", r"import\(", r"\.src\b", "https?:"),
    *("innerHTML", "outerHTML", "insertAdjacentHTML", r"document\.write", r"\beval\b", "location"),
)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page that was read: its elements in order, each with the text directly inside it."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements of a tag with these attributes; `class_` for class."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [
            element for element in self.elements if element.tag == tag and wanted.items() <= element.attributes.items()
        ]

    @property
    def ids(self) -> list[str]:
        return [element.attributes["id"] for element in self.elements if "id" in element.attributes]


def check_page(source: str) -> Page:
    """Read a page, and check what holds for all: it loads nothing, runs nothing foreign, and is fit for all readers."""
    page = Page(source)
    assert not page._open
    check_loads_nothing(page)
    check_policy(page)
    check_readable(page)
    return page


def check_loads_nothing(page: Page) -> None:
    for element in page.elements:
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            assert name != "style", element.tag
            if name in ADDRESSES:
                assert value.startswith(("#", "data:")), (element.tag, name, value[:80])
            assert "url(" not in value.lower(), (element.tag, name)
        assert element.tag not in {"iframe", "object", "embed", "base", "frame", "portal"}
        refresh = element.tag == "meta" and element.attributes.get("http-equiv", "").lower() == "refresh"
        assert not refresh
    for sheet in page.all("style"):
        assert not re.search(r"url\(|@import|image-set|expression", sheet.text, re.IGNORECASE)
    for script in page.all("script"):
        assert not re.search("|".join(REACHES), script.text)


def check_policy(page: Page) -> None:
    """The policy stands before all that it governs, and allows the page's own style and script alone."""
    (meta,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    tags = [element.tag for element in page.elements]
    assert page.elements.index(meta) < min(tags.index(tag) for tag in ("style", "link", "body"))
    rules = dict(rule.strip().split(" ", 1) for rule in meta.attributes["content"].split(";"))
    for tag in ("style", "script"):
        hashes = [hashlib.sha256(element.text.encode()).digest() for element in page.all(tag)]
        expected = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in hashes)
        assert rules.pop(f"{tag}-src") == (expected or "'none'")
    assert rules.pop("img-src") == "data:"
    assert rules.keys() == {"default-src", "connect-src", "base-uri", "form-action"}
    assert set(rules.values()) == {"'none'"}


def check_readable(page: Page) -> None:
    """Headings in order, names for all that can be used, and links that lead somewhere."""
    assert len(set(page.ids)) == len(page.ids)
    for element in page.elements:
        target = element.attributes.get("href", "")
        if element.tag == "a" and target.startswith("#"):
            assert target[1:] in page.ids, target
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(element.attributes.get(name, "").split()) <= set(page.ids)
    levels = [int(element.tag[1]) for element in page.elements if re.fullmatch(r"h[1-6]", element.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(element.text.strip() for element in page.elements if re.fullmatch(r"h[1-6]", element.tag))
    assert [element.attributes["lang"] for element in page.all("html")] == ["en"]
    assert len(page.all("main")) == 1
    assert all("alt" in image.attributes for image in page.all("img"))
    assert all("scope" in cell.attributes for cell in page.all("th"))
