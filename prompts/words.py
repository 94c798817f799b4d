"""Where a family's words are found: `<family>.md`, its sections compiled once.

Knows the file's shape (front matter, marked sections, Jinja2 inside) and nothing of its content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined, Template, TemplateSyntaxError

from env_server.contract import RoundsError, nearest

ROOM = Path(__file__).parent
SECTIONS = tuple(
    f"{part}.{style}" for part in ("briefing", "opening", "update") for style in ("full", "brief")
)
MAX_QUOTE = (
    240  # characters of foreign text (a refusal may hold what a model wrote) repeated in a prompt
)

_KEYS: dict[str, type] = {
    "purposes": dict,
    "examples": list,
    "fields": dict,
    "values": dict,
    "names": dict,
    "identifiers": list,
    "ignored": list,
}
_MARK = re.compile(r"^<!-- section: ([\w.]+) -->[ \t]*\n", re.MULTILINE)
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.MULTILINE | re.DOTALL)


class MissingWords(RoundsError, LookupError):
    """A family has no prompt file, or the file lacks a section."""


class BadWords(RoundsError, ValueError):
    """A prompt file cannot be read."""


@dataclass(frozen=True, slots=True)
class Words:
    """One family's prompt file, ready to use."""

    family: str
    templates: Mapping[str, Template]
    purposes: Mapping[str, str]  # form -> what it is for
    examples: tuple[Mapping[str, Any], ...]  # answers worth copying, at least one a form
    fields: Mapping[str, str]  # other spellings of a field -> the schema's
    values: Mapping[str, str]  # other spellings of a verb -> the schema's
    names: Mapping[str, str]  # other names of an identifier -> the one in use
    identifiers: frozenset[str]  # fields holding lower_case ids
    ignored: frozenset[str]  # fields that carry no decision


class _Environment(Environment):
    """Looks a name up in the data first: `m.items` is the data's `items`, not a dict's method."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _quote(text: str) -> str:
    """Foreign text on one line, cut short, and unable to spell a tokenizer's control token."""
    flat = " ".join(text[: 4 * MAX_QUOTE].replace("<", "‹").replace(">", "›").split())
    return flat if len(flat) <= MAX_QUOTE else flat[: MAX_QUOTE - 1] + "…"


def _environment() -> Environment:
    environment = _Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["quote"] = _quote
    return environment


@cache
def load(family: str) -> Words:
    """The words of `family`. Raises MissingWords or BadWords, naming the file and the way out."""
    if not re.fullmatch(r"\w+", family):
        raise MissingWords(f"{family!r} is not a family's name")
    path = ROOM / f"{family}.md"
    if not path.is_file():
        known = sorted(p.stem for p in ROOM.glob("*.md"))
        raise MissingWords(
            f"family {family!r} has no prompts/{family}.md{nearest(family, known)} "
            f"Write it with the sections {', '.join(SECTIONS)}; prompts/polypharmacy.md is a model"
        )
    return read(family, path.read_text(encoding="utf-8"))


def read(family: str, text: str) -> Words:
    """Compile a prompt file's text. Raises MissingWords or BadWords."""
    front = _FRONT.match(text)
    if not front:
        raise BadWords(f"prompts/{family}.md must open with front matter between two lines of ---")
    sections = _sections(text[front.end() :])
    for name in sections:
        if name not in (*SECTIONS, "shared"):
            raise BadWords(
                f"prompts/{family}.md has an unknown section {name!r}{nearest(name, SECTIONS)}"
            )
    missing = [name for name in SECTIONS if name not in sections]
    if missing:
        raise MissingWords(f"prompts/{family}.md lacks the section {', '.join(missing)}")
    facts = _facts(family, front.group(1))
    return Words(
        family=family,
        templates=_compiled(family, sections),
        purposes=facts.get("purposes", {}),
        examples=tuple(facts.get("examples", ())),
        fields=facts.get("fields", {}),
        values=facts.get("values", {}),
        names=facts.get("names", {}),
        identifiers=frozenset(facts.get("identifiers", ())),
        ignored=frozenset(facts.get("ignored", ())),
    )


def _facts(family: str, front: str) -> dict[str, Any]:
    try:
        facts = yaml.safe_load(front) or {}
    except yaml.YAMLError as error:
        raise BadWords(f"the front matter of prompts/{family}.md is not YAML: {error}") from error
    if not isinstance(facts, dict):
        raise BadWords(f"the front matter of prompts/{family}.md must be keys and values")
    for key in facts:
        if key not in _KEYS:
            raise BadWords(
                f"prompts/{family}.md has an unknown key {key!r}{nearest(str(key), tuple(_KEYS))}; "
                f"keys: {', '.join(_KEYS)}"
            )
        if not isinstance(facts[key], _KEYS[key]):
            raise BadWords(f"prompts/{family}.md: {key} must be a {_KEYS[key].__name__}")
    return facts


def _sections(body: str) -> dict[str, str]:
    """Section name -> its text. What stands before the first mark is for the reader of the file."""
    parts = _MARK.split(body)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _compiled(family: str, sections: Mapping[str, str]) -> dict[str, Template]:
    # `shared` holds macros: it goes before every section, and prints nothing itself
    environment, shared = _environment(), sections.get("shared", "")
    compiled = {}
    for name in SECTIONS:
        try:
            compiled[name] = environment.from_string(shared + sections[name])
        except TemplateSyntaxError as error:
            raise BadWords(f"prompts/{family}.md, section {name}: {error.message}") from error
    return compiled
