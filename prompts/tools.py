"""Actions as tool calls, for chat models that were taught to call functions: one function a form.

Knows the wire shape of OpenAI-compatible tools; the functions come from the family's schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from env_server.contract import Action, Family, JsonObject, Refusal, nearest
from prompts import parse, words
from prompts.forms import Form, forms


def tools(family: Family) -> list[JsonObject]:
    """The `tools` argument of a chat request."""
    known = words.load(family.name)
    return [_tool(form, known.purposes.get(form.verb, form.verb)) for form in forms(family)]


def _tool(form: Form, purpose: str) -> JsonObject:
    return {
        "type": "function",
        "function": {
            "name": form.verb,
            "description": purpose,
            "parameters": {
                "type": "object",
                # servers that check tools want a type beside an enum
                "properties": {
                    name: {"type": "string", **schema} for name, schema in form.properties.items()
                },
                "required": list(form.required),
                "additionalProperties": False,
            },
        },
    }


def to_tool_call(family: Family, action: Action) -> JsonObject:
    """The action as a member of an assistant message's `tool_calls` (without its id)."""
    arguments = action.to_json()
    name = arguments.pop(forms(family)[0].verb_field)
    text = json.dumps(arguments, separators=(",", ":"), ensure_ascii=False)
    return {"type": "function", "function": {"name": name, "arguments": text}}


def parse_tool_call(
    family: Family, name: str, arguments: str | Mapping[str, Any]
) -> Action | Refusal:
    """The action of one tool call; `arguments` may be JSON text or already an object."""
    menu = forms(family)
    verbs = [form.verb for form in menu]
    if name not in verbs:
        return Refusal(
            "malformed",
            f"no tool {name[:80]!r}{nearest(name[:80], verbs)}; tools: {', '.join(verbs)}",
        )
    fields = parse.payload(arguments or "{}") if isinstance(arguments, str) else dict(arguments)
    if isinstance(fields, Refusal):
        return fields
    # the name decides: an argument that repeats or contradicts it is ignored
    return parse.read(family, {**fields, menu[0].verb_field: name})
