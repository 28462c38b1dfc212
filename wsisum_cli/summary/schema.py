"""The JSON Schema of the attributes, and tables of their keys, made from the typed models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wsisum_cli.models.card import ModelCard
from wsisum_cli.summary.attributes import NULLABLE, REQUIRED_SINCE, VERSIONS, Attributes, Section


def attributes_schema() -> dict[str, Any]:
    """A strict JSON Schema (2020-12) of the attributes, of all formats: unknown keys are errors."""
    schema = Attributes.model_json_schema(mode="validation")
    definitions = schema["$defs"]
    for node in objects(schema):
        node["additionalProperties"] = False
        for value in (node, *node["properties"].values()):
            value.pop("title", None)
    for card in ("EncoderCard", "UsedSummarizer", "UsedSlideEncoder"):
        definitions[card]["required"] = list(definitions[card]["properties"])
    schema["properties"]["format_version"] = {"enum": list(VERSIONS)}
    schema["required"] = [*schema["required"], "members"]
    conditions = [condition(revision, paths) for revision, paths in REQUIRED_SINCE.items() if revision]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:wsisum:schema:summary:{VERSIONS[-1]}",
        "title": f"Attributes of a summary slide, formats {VERSIONS[0]} to {VERSIONS[-1]}",
        "description": "The object `wsisum` among the attributes of the root's zarr.json. docs/format.md explains it.",
    }
    computed = {"properties": {"features": {"properties": {"origin": {"const": "computed"}}}}}
    return {
        **head,
        **{name: value for name, value in schema.items() if name not in head},
        "allOf": conditions,
        "if": computed,
        "then": {"properties": {"encoder": {"$ref": "#/$defs/EncoderCard"}}},
        "else": {"properties": {"provider": {"const": "none"}}},
    }


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object with named keys."""
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            yield node
        for value in node.values():
            yield from objects(value)
    elif isinstance(node, list):
        for value in node:
            yield from objects(value)


def condition(revision: int, paths: tuple[str, ...]) -> dict[str, Any]:
    """Files of earlier formats, also migrated ones, lack the keys of this one; later files have them."""
    before = {"enum": list(VERSIONS[:revision])}
    top = [path for path in paths if "." not in path]
    nested: dict[str, list[str]] = {}
    for path in paths:
        if "." in path:
            section, name = path.split(".")
            nested.setdefault(section, []).append(name)
    return {
        "if": {
            "anyOf": [
                {"properties": {"format_version": before}},
                {"properties": {"migrated_from": before}, "required": ["migrated_from"]},
            ]
        },
        "then": {"properties": dict.fromkeys(top, False)},
        "else": {
            "required": top,
            "properties": {
                **{name: {"not": {"type": "null"}} for name in top if name not in NULLABLE},
                **{section: {"required": names} for section, names in nested.items()},
            },
        },
    }


def key_table() -> str:
    """A Markdown table of every key: its dotted path, since which version, and what it says."""
    since = {path: VERSIONS[place] for place, paths in REQUIRED_SINCE.items() for path in paths if place}
    since |= dict.fromkeys(("migrated_from", "reembedded", "tissue_features", "options.tissue_features"), "2.0")
    since |= dict.fromkeys(("left_out",), "2.0")
    since |= dict.fromkeys(("pixels.recompressed", "options.recompress"), "2.0")
    rows = [f"| `{path}` | {since_of(path, since)} | {text} |" for path, text in keys(Attributes)]
    return "\n".join(["| key | since | what it says |", "|---|---|---|", *rows])


def keys(model: type[Section] | type[ModelCard], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted path and description of every field, depth first."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path, (field.description or "").replace("|", "\\|")
        for inner in sections(field.annotation):
            yield from keys(inner, f"{path}.")


def sections(annotation: Any) -> Iterator[type[Section]]:
    """The models of sections in the type of a field, cards left out: docs/models.md lists what those say."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from sections(part)


def since_of(path: str, since: Mapping[str, str]) -> str:
    """The version that added a key, or else the nearest key above it; empty for the first version."""
    while path not in since and "." in path:
        path = path.rpartition(".")[0]
    return since.get(path, "")
