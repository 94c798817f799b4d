"""What an answer may look like, as one JSON schema that a decoder can be held to.

Knows the forms of the families that are played; which of them are legal at the moment, and what a
decoder makes of a schema, it does not.
"""

from __future__ import annotations

from collections.abc import Iterable

from env_server.contract import Family, JsonObject


def answer_schema(families: Iterable[Family]) -> JsonObject:
    """Any form of any of these families.

    Forms are told apart by the value of their first field, so `anyOf` says what `oneOf` does, and
    every grammar back end reads it.
    """
    forms: list[JsonObject] = []
    for family in families:
        schema = family.action_schema()
        forms += [form for form in schema["oneOf"] if form not in forms]
    return {"anyOf": forms}
