"""The forms an answer may take, read from a family's own action schema.

Knows JSON schema's `oneOf` and nothing of any family: the menu in a prompt, the reader of answers
and the tools of a chat model all come from here, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from env_server.contract import Family, JsonObject


@dataclass(frozen=True, slots=True)
class Form:
    """One branch of the schema: `verb` is the value of the field that tells the branches apart."""

    verb: str
    verb_field: str
    properties: Mapping[str, Mapping[str, Any]]  # without the verb field, in schema order
    required: tuple[str, ...]

    @property
    def optional(self) -> tuple[str, ...]:
        return tuple(name for name in self.properties if name not in self.required)

    def choices(self) -> dict[str, str]:
        """Every enumerated value of this form -> the field it belongs to."""
        return {
            value: name
            for name, schema in self.properties.items()
            for value in schema.get("enum", ())
            if isinstance(value, str)
        }

    def skeleton(self) -> str:
        """The form as a pattern to fill in: `{"action_type": "query_ddi", "drug_id_1": <a drug_id>, ...}`."""
        fields = [f'"{self.verb_field}": "{self.verb}"']
        for name in self.required:
            fields.append(f'"{name}": {_blank(self.properties[name])}')
        return "{" + ", ".join(fields) + "}"

    def options(self) -> str:
        """The optional fields with what may stand in them, for the menu."""
        return ", ".join(f'"{name}": {_blank(self.properties[name])}' for name in self.optional)


def _blank(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(f'"{value}"' for value in schema["enum"])
    return f"<{schema.get('description') or schema.get('type', 'value')}>"


def forms(family: Family) -> tuple[Form, ...]:
    """The family's forms in schema order."""
    return read(family.action_schema())


def read(schema: JsonObject) -> tuple[Form, ...]:
    """The forms of an action schema. Raises ValueError where no field tells them apart."""
    branches = schema.get("oneOf") or [schema]
    verb_field = _verb_field(branches)
    return tuple(_form(branch, verb_field) for branch in branches)


def _verb_field(branches: list[JsonObject]) -> str:
    first = branches[0].get("properties", {})
    for name in first:
        if all("const" in branch.get("properties", {}).get(name, {}) for branch in branches):
            return str(name)
    raise ValueError("an action schema needs one field with a const in every branch of its oneOf")


def _form(branch: JsonObject, verb_field: str) -> Form:
    properties = dict(branch["properties"])
    verb = properties.pop(verb_field)["const"]
    required = tuple(name for name in branch.get("required", ()) if name != verb_field)
    return Form(str(verb), verb_field, properties, required)
