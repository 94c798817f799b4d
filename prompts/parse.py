"""What a model meant: its answer read as one action, or refused with a reason.

Forgiving about wording (fences, thinking, prose, case, other spellings), strict about content:
the family itself reads the object in the end. Knows no family; other spellings come from
`<family>.md`, the forms from the family's schema. Reads in linear time and never raises on a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import Any

from env_server.contract import Action, Family, JsonObject, Refusal
from prompts import words
from prompts.forms import Form, forms
from prompts.words import Words

MAX_ANSWER = 20_000  # characters after the thinking; an action takes a hundred
MAX_OBJECT = 4_000  # characters of one JSON object: repair is not asked to read a book
MAX_DEPTH = 16
MAX_STARTS = 8  # braces that may turn out not to open an object before we give up
MAX_DIGITS = 40

# what chat models wrap an action in; the first member of a list is taken, see `_unwrapped`
_WRAPPERS = ("action", "actions", "next_action", "tool_call", "function", "answer", "response")
_ARGUMENTS = ("arguments", "parameters", "args", "input")

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_BRACES = re.compile(r'["\\{}\[\]]')
_NOT_WORD = re.compile(r"[^\w]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SMART = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "\u00a0": " "})
_LOOSE = re.compile(
    r'"(?:[^"\\]|\\.)*"'  # a string: left as it is
    r"|'(?P<single>(?:[^'\\]|\\.)*)'"  # single quotes: made double
    r"|(?P<comma>,)(?=\s*[}\]])"  # trailing comma: dropped
    r"|\b(?P<literal>None|True|False)\b",  # Python's spelling
    re.DOTALL,
)
_LITERALS = {"None": "null", "True": "true", "False": "false"}


def parse(family: Family, text: str, truncated: bool = False) -> Action | Refusal:
    """The action in a model's answer, or the Refusal that says why there is none.

    truncated: the answer ran out of tokens. It is then refused even where an object can be read:
    it had not ended, and a policy that never ends its turn should learn to.
    """
    if truncated:
        return Refusal(
            "truncated", "the answer ran out of tokens; answer with the JSON object alone"
        )
    found = payload(text)
    return found if isinstance(found, Refusal) else read(family, found)


def read(family: Family, payload: JsonObject) -> Action | Refusal:
    """The action in a JSON object that is already apart from its text, other spellings understood."""
    known = words.load(family.name)
    plain = _identified(payload, known)
    action = family.action_from_json(plain)  # nearly every answer ends here
    if not isinstance(action, Refusal):
        return action
    return family.action_from_json(_identified(_normal(payload, forms(family), known), known))


def spell(action: Action) -> str:
    """The one JSON text of an action: compact, its own fields in schema order. What a warm start teaches."""
    return json.dumps(action.to_json(), separators=(",", ":"), ensure_ascii=False)


# -- from text to object ----------------------------------------------------------------------


def payload(text: str) -> JsonObject | Refusal:
    """The first JSON object in a text, nearly valid ones mended; unread as yet."""
    bare = text.strip()
    if bare.startswith("{") and bare.endswith("}") and isinstance(found := _loads(bare), dict):
        return found
    spoken = _after_thinking(bare)
    if spoken is None:
        return Refusal("malformed", "a thought was opened and never closed; no answer follows it")
    if not spoken.strip():
        return Refusal("empty", "nothing was said; answer with one JSON object")
    if len(spoken) > MAX_ANSWER:
        return Refusal(
            "malformed", f"the answer has {len(spoken)} characters; at most {MAX_ANSWER} are read"
        )
    return _first_object(spoken)


def _first_object(spoken: str) -> JsonObject | Refusal:
    why = "no JSON object was found"
    for chunk in _objects(spoken):
        found = _loads(chunk)
        if isinstance(found, dict):
            return found
        why = found
    return Refusal("malformed", f"{why}; answer with one JSON object")


def _after_thinking(text: str) -> str | None:
    """What follows the last closed thought; None where a thought was opened and never closed."""
    start, thinking = 0, False
    for mark in _THINK.finditer(text):
        start, thinking = mark.end(), not mark.group(1)
    return None if thinking else text[start:]


def _objects(text: str) -> Iterator[str]:
    """Balanced `{...}` stretches from left to right, quotes respected; a few false starts are forgiven."""
    at, starts = text.find("{"), 0
    while at >= 0 and starts < MAX_STARTS:
        starts += 1
        end = _end_of_object(text, at)
        if end is None:
            at = text.find("{", at + 1)
            continue
        yield text[at:end]
        at = text.find("{", end)


def _end_of_object(text: str, start: int) -> int | None:
    """One past the brace that closes the one at `start`; None where it is open, or nested too deep."""
    depth, quoted, escaped_at = 0, False, -1
    for mark in _BRACES.finditer(text, start):
        symbol, at = mark.group(), mark.start()
        if at == escaped_at:
            continue
        if symbol == "\\":
            escaped_at = at + 1
        elif symbol == '"':
            quoted = not quoted
        elif not quoted and symbol in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return None
        elif not quoted:
            depth -= 1
            if depth == 0:
                return at + 1
    return None


def _loads(chunk: str) -> JsonObject | str:
    """The object a stretch of text spells, mended where it is nearly JSON; else why not."""
    if len(chunk) > MAX_OBJECT:
        return f"the object has {len(chunk)} characters; at most {MAX_OBJECT} are read"
    try:
        return _strict(chunk)
    except ValueError as error:
        why = f"not JSON: {error}"
    try:
        return _strict(_mended(chunk))
    except ValueError:
        return why


def _strict(chunk: str) -> JsonObject:
    value = json.loads(
        chunk, strict=False, parse_constant=_not_a_number, parse_float=_finite, parse_int=_whole
    )
    cleaned: JsonObject = value if chunk.isascii() and "\\u" not in chunk else _encodable(value)
    return cleaned


def _mended(chunk: str) -> str:
    return _LOOSE.sub(_mend, chunk.translate(_SMART))


def _mend(found: re.Match[str]) -> str:
    if (single := found.group("single")) is not None:
        return '"' + single.replace("\\'", "'").replace('"', '\\"') + '"'
    if found.group("comma"):
        return ""
    literal = found.group("literal")
    return _LITERALS[literal] if literal else found.group()


def _not_a_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not isfinite(value):
        raise ValueError(f"{digits[:MAX_DIGITS]} is too large")
    return value


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is too large")
    return int(digits)


def _encodable(value: Any) -> Any:
    """The value with lone surrogates replaced: they are in no text that can be stored or sent."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_encodable(member) for member in value]
    return value


# -- from any spelling to the schema's ----------------------------------------------------------


def _normal(payload: JsonObject, menu: tuple[Form, ...], known: Words) -> JsonObject:
    """The payload with wrappers removed and names and verbs brought to the schema's spelling."""
    verb_field = menu[0].verb_field
    plain = _renamed(_unwrapped(payload, menu), menu, known)
    verb = plain.get(verb_field)
    if isinstance(verb, str):
        verb = _word(verb, known, {form.verb for form in menu} | _choices(menu).keys())
        plain[verb_field] = verb
    if verb is None or not any(form.verb == verb for form in menu):
        plain = _completed(plain, menu, known)
    return {key: _value(key, value, menu, known) for key, value in plain.items()}


def _unwrapped(payload: JsonObject, menu: tuple[Form, ...]) -> JsonObject:
    """The object inside `{"action": {...}}`, `{"name": ..., "arguments": {...}}` or `{"<verb>": {...}}`.

    Of a list the first is taken: a step is one action, and the rest were written without its result.
    """
    verbs = {form.verb for form in menu}
    for _ in range(3):
        folded = {_folded(key): key for key in payload}
        inner = _arguments(payload, folded, menu)
        if inner is None:
            name = next(
                (n for n in (*_WRAPPERS, *verbs) if _holds_object(payload, folded, n)), None
            )
            if name is None:
                return payload
            inner = _first(payload[folded[name]])
            if name in verbs:
                inner = {menu[0].verb_field: name, **inner}
        payload = inner
    return payload


def _arguments(
    payload: JsonObject, folded: Mapping[str, str], menu: tuple[Form, ...]
) -> JsonObject | None:
    """A tool call written as text: its name is the verb, its arguments the fields."""
    key = next((folded[name] for name in _ARGUMENTS if name in folded), None)
    name = payload.get(folded.get("name", ""))
    if key is None or not isinstance(name, str):
        return None
    arguments = payload[key]
    if isinstance(arguments, str):
        arguments = _loads(arguments)
    return {menu[0].verb_field: name, **arguments} if isinstance(arguments, dict) else None


def _holds_object(payload: JsonObject, folded: Mapping[str, str], name: str) -> bool:
    return name in folded and isinstance(_first(payload[folded[name]]), dict)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _renamed(payload: JsonObject, menu: tuple[Form, ...], known: Words) -> JsonObject:
    """Fields under the schema's names; empty ones and those that decide nothing left out."""
    fields = {menu[0].verb_field, *(name for form in menu for name in form.properties)}
    plain: JsonObject = {}
    for key, value in payload.items():
        name = _folded(key)
        name = name if name in fields else known.fields.get(name, name)
        if value in (None, "") or name in known.ignored:
            continue
        plain.setdefault(name if name in fields else key, value)
    return plain


def _completed(plain: JsonObject, menu: tuple[Form, ...], known: Words) -> JsonObject:
    """The verb where it was left out, or where a choice of one form stands in its place ("stop")."""
    verb_field = menu[0].verb_field
    verb = plain.get(verb_field)
    for form in menu:
        if isinstance(verb, str) and (name := form.choices().get(verb)):
            return {**plain, verb_field: form.verb, name: verb}
    if verb is None:
        fitting = [f for f in menu if f.required and all(name in plain for name in f.required)]
        if len(fitting) == 1:
            return {verb_field: fitting[0].verb, **plain}
    return plain


def _value(key: str, value: Any, menu: tuple[Form, ...], known: Words) -> Any:
    choices = {choice for form in menu for choice, name in form.choices().items() if name == key}
    return _word(value, known, choices) if choices and isinstance(value, str) else value


def _word(value: str, known: Words, choices: set[str]) -> str:
    """The choice that `value` spells in another case or by another name, or `value` itself."""
    if value in choices:
        return value
    folded = _folded(value)
    return next((w for w in (folded, known.values.get(folded, "")) if w in choices), value)


def _choices(menu: tuple[Form, ...]) -> dict[str, str]:
    return {choice: name for form in menu for choice, name in form.choices().items()}


def _identified(payload: JsonObject, known: Words) -> JsonObject:
    """The payload with its identifiers as the family writes them ("Paracetamol" -> "acetaminophen")."""
    return {
        key: _identifier(value, known)
        if key in known.identifiers and isinstance(value, str)
        else value
        for key, value in payload.items()
    }


def _identifier(value: str, known: Words) -> str:
    slug = _slug(value)
    return known.names.get(slug, slug)


def _folded(word: str) -> str:
    """The word as the schema would write it: "drugId1", "Drug id 1" -> "drug_id1", "drug_id_1"."""
    return _slug(_CAMEL.sub("_", word))


def _slug(word: str) -> str:
    return _NOT_WORD.sub("_", word.casefold()).strip("_")
