"""The OpenAPI document: every family's types in it once, by name.

Knows JSON schema and where OpenAPI wants it; nothing of routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import FastAPI

from env_server import wire
from env_server.contract import Family, JsonObject

Kind = Literal["Action", "Observation", "State"]


def title(family: Family) -> str:
    """The family's name as types are called: drug_target is DrugTarget."""
    return "".join(word.title() for word in family.name.split("_"))


def ref(family: Family, kind: Kind) -> JsonObject:
    """A reference to one of the family's types."""
    return {"$ref": f"#/components/schemas/{title(family)}{kind}"}


def describe(app: FastAPI, families: Sequence[Family]) -> None:
    """Add the families' types to the app's OpenAPI document."""
    plain = app.openapi

    def openapi() -> JsonObject:
        if app.openapi_schema is None:
            document = plain()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for family in families:
                schemas.update(_components(family))
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _components(family: Family) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, schema in wire.schemas(family).items():
        prefix = title(family)
        moved = _moved(schema, prefix)
        for name, inner in moved.pop("$defs", {}).items():
            found[prefix + name] = inner
        found[prefix + kind.title()] = moved
    return found


def _moved(schema: Any, prefix: str) -> Any:
    """The schema with its references pointing where its definitions now are."""
    if isinstance(schema, list):
        return [_moved(one, prefix) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, prefix) for key, value in schema.items()}
    target = moved.get("$ref")
    if isinstance(target, str):
        moved["$ref"] = target.replace("#/$defs/", f"#/components/schemas/{prefix}")
    if isinstance(schema.get("discriminator"), dict):
        del moved["discriminator"]  # its mapping would point at the old places
    return moved
