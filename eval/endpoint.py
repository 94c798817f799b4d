"""Where a served language model is, and how it is to be asked: everything that is settled beforehand.

Read from the environment and from `model@url?knob=value`. Knows names, numbers and keys; nothing of
requests, and a key is never part of what is printed, kept or compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from env_server.contract import RoundsError, nearest
from prompts.render import STYLES, Style

Form = Literal["schema", "tools", "text"]

OPENAI = "https://api.openai.com/v1"
_SPEC = re.compile(r"(?P<model>[^@?]+)?(?:@(?P<url>https?://[^?]+))?(?:\?(?P<knobs>.*))?")
_WANTS_KEY = ("api.openai.com", "huggingface.co")


class BadEndpoint(RoundsError, ValueError):
    """The words after `llm:` name no model, or a knob that there is not."""


class NoModel(BadEndpoint):
    """Neither the words nor the environment name a model."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a served model is asked. Every field is a knob of `llm:model@url?knob=value`."""

    # schema: the server is told the JSON schema of an action; tools: one function a form; text: neither
    form: Form = "schema"
    # full for chat models, brief for the small models trained here
    style: Style = "full"
    # the cap of one answer; a model that thinks aloud needs thousands
    answer_tokens: int = 512
    # episodes that advance together, each with one request under way
    concurrency: int = 16
    # 0 is no limit; requests are spread evenly over the minute
    requests_per_minute: float = 0.0
    # 0 is no limit; read and written tokens together
    tokens_per_minute: float = 0.0
    # seconds until a request counts as failed
    timeout_s: float = 60.0
    # tries of one request: at one failure in five, twelve in a row happen once in 10^8 requests
    attempts: int = 12
    # seconds one request may take with all its tries and waits
    patience_s: float = 300.0
    # requests that fail for good in a row, nobody else being answered, before the server counts as down
    breaker: int = 3
    # the first wait after a failure; doubles up to the second, drawn at random below it
    backoff_s: float = 0.5
    backoff_cap_s: float = 20.0
    # US dollars a million tokens, read and written; both or the cost is unknown
    price_in: float | None = None
    price_out: float | None = None
    # whether answers are kept on disk and not asked for twice
    cache: bool = True
    # the tasks it is asked about, with + between; empty is all, whatever they cost
    tasks: str = ""

    def __post_init__(self) -> None:
        """Raise BadEndpoint on a value that cannot be."""
        for name, known in (("form", get_args(Form)), ("style", STYLES)):
            given = getattr(self, name)
            if given not in known:
                raise BadEndpoint(f"{name} is {given!r}; it is one of {', '.join(known)}")
        for name in ("answer_tokens", "concurrency", "attempts", "breaker"):
            if getattr(self, name) < 1:
                raise BadEndpoint(f"{name} is {getattr(self, name)}; it is 1 or more")
        for name in ("timeout_s", "patience_s"):
            if not 0 < getattr(self, name) < 1e6:
                raise BadEndpoint(f"{name} is {getattr(self, name)}; it is seconds above 0")

    def asks_about(self, task: str) -> bool:
        """Whether a table's task is one that this model is asked about."""
        return not self.tasks or task in self.named_tasks()

    def named_tasks(self) -> list[str]:
        return self.tasks.replace("+", " ").split()  # in a URL's query a + is a space

    def cost_usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """What so many tokens cost; None where a price or a count is unknown."""
        counts = prompt_tokens, completion_tokens
        if self.price_in is None or self.price_out is None or None in counts:
            return None
        read, written = prompt_tokens or 0, completion_tokens or 0
        return (read * self.price_in + written * self.price_out) / 1e6


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model behind one URL. The key is for the request alone."""

    model: str
    url: str
    key: str | None = field(default=None, repr=False, compare=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or self.url

    @property
    def needs_key(self) -> bool:
        """Whether this host is known to answer nobody without one."""
        return any(self.host == name or self.host.endswith("." + name) for name in _WANTS_KEY)


def read(spec: str) -> tuple[Endpoint, Asking]:
    """The endpoint and the knobs in `model@url?knob=value`; the environment fills what is left out.

    API_BASE_URL and MODEL_NAME say where and which, LLM_PRICE_INPUT and LLM_PRICE_OUTPUT what a
    million tokens cost. Raises BadEndpoint where no model is named.
    """
    found = _SPEC.fullmatch(spec)
    if not found:
        raise BadEndpoint(f"{spec!r} is not of the form model@http://host/v1?knob=value")
    model = found["model"] or os.environ.get("MODEL_NAME", "")
    if not model:
        raise NoModel("no model is named: set MODEL_NAME and API_BASE_URL, or write llm:MODEL@URL")
    url = (found["url"] or os.environ.get("API_BASE_URL") or OPENAI).rstrip("/")
    if not re.match(r"https?://[^/\s]+", url):
        raise BadEndpoint(f"API_BASE_URL is {url!r}; it begins with http:// or https://")
    asking = with_knobs(_priced(), dict(parse_qsl(found["knobs"] or "", keep_blank_values=True)))
    return Endpoint(model, url, _key(url)), asking


def with_knobs(asking: Asking, given: Mapping[str, str]) -> Asking:
    """`asking` with knobs that were written as text. Raises BadEndpoint, naming the near miss."""
    kinds = {each.name: each.type for each in fields(Asking)}
    changed: dict[str, Any] = {}
    for name, text in given.items():
        if name not in kinds:
            known = ", ".join(kinds)
            raise BadEndpoint(f"no knob {name!r}{nearest(name, tuple(kinds))}; knobs: {known}")
        changed[name] = _value(name, str(kinds[name]), text)
    return replace(asking, **changed)


def _value(name: str, kind: str, text: str) -> Any:
    if kind == "bool":
        known = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}
        if text.lower() not in known:
            raise BadEndpoint(f"{name} is {text!r}; it is true or false")
        return known[text.lower()]
    if kind not in ("int", "float", "float | None"):
        return text
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        raise BadEndpoint(f"{name} is {text!r}; it is a number") from None


def _priced() -> Asking:
    """The defaults, with the prices the environment names."""
    told = {
        "price_in": os.environ.get("LLM_PRICE_INPUT"),
        "price_out": os.environ.get("LLM_PRICE_OUTPUT"),
    }
    return with_knobs(Asking(), {name: text for name, text in told.items() if text})


def _key(url: str) -> str | None:
    """The Hub's token for the Hub's hosts, OpenAI's key first for all others."""
    openai, hub = os.environ.get("OPENAI_API_KEY"), os.environ.get("HF_TOKEN")
    host = urlsplit(url).hostname or ""
    first, second = (hub, openai) if host.endswith("huggingface.co") else (openai, hub)
    return first or second or None
