"""A language model behind a URL: one question in, one answer out, whatever the server does meanwhile.

Knows the OpenAI client, retries, limits, what a server has refused, and what answers cost; nothing
of environments. What is only late is waited for, what is broken is asked again, and what cannot be
mended is an exception that says which server, and what to do.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from env_server.contract import JsonObject, RoundsError
from eval.answer_cache import AnswerCache
from eval.endpoint import Asking, Endpoint
from eval.pace import Pace, backoff
from eval.refusals import BadReply, Trouble, trouble

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Sleep = Callable[[float], Awaitable[Any]]


class ModelDown(RoundsError, RuntimeError):
    """The server cannot be used at all: nothing more is asked of it."""


class NoAnswer(RoundsError, RuntimeError):
    """This one request has failed for good; others may do better."""


class ContextFull(RoundsError, RuntimeError):
    """The conversation has grown longer than the model reads."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said. `call` is (name, arguments) where it called a function instead."""

    text: str
    truncated: bool
    call: tuple[str, str] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0  # of the request that succeeded, as first measured
    cached: bool = False
    retries: int = 0


@dataclass(slots=True)
class ServedModel:
    """One model on one server, asked by many conversations at once.

    Remembers what the server will not take (a response format, a temperature), when it wants to be
    left alone, and how many requests have failed for good since the last answer.
    """

    endpoint: Endpoint
    asking: Asking
    cache: AnswerCache | None = None
    sleep: Sleep = asyncio.sleep
    draw: Callable[[], float] = random.random  # only of waits: no result depends on it
    pace: Pace = field(init=False)
    refused: set[str] = field(default_factory=set)  # optional fields the server has turned down
    answered: int = 0
    given_up: int = 0  # requests that failed for good since the last answer
    unreachable: int = 0  # connections refused since the last answer

    def __post_init__(self) -> None:
        self.pace = Pace(self.asking.requests_per_minute, self.asking.tokens_per_minute)

    @asynccontextmanager
    async def line(self) -> AsyncIterator[AsyncOpenAI]:
        """The client, open; retries and timeouts are ours."""
        from openai import AsyncOpenAI

        key = self.endpoint.key or "none"  # the client insists on one; servers at home do not
        client = AsyncOpenAI(
            api_key=key, base_url=self.endpoint.url, max_retries=0, timeout=self.asking.timeout_s
        )
        async with client:
            yield client

    async def ask(self, client: AsyncOpenAI, wanted: JsonObject) -> Answer:
        """The answer to one chat request, from disk where it was given before.

        Raises ModelDown, NoAnswer or ContextFull.
        """
        named = {"url": self.endpoint.url, "model": self.endpoint.model, **wanted}
        if self.cache is not None and (kept := self.cache.get(named)) is not None:
            remembered = _remembered(kept)
            if remembered is not None:
                return remembered
        answer = await self._until_answered(client, wanted)
        self.answered, self.given_up, self.unreachable = self.answered + 1, 0, 0
        if self.cache is not None:
            self.cache.put(named, asdict(answer))
        return answer

    async def _until_answered(self, client: AsyncOpenAI, wanted: JsonObject) -> Answer:
        began, failures, retries, answered = monotonic(), 0, 0, self.answered
        while True:
            await self._turn(_size(wanted))
            body = self._acceptable(wanted)
            try:
                return await self._request(client, body, retries)
            except Exception as error:  # the boundary where whatever breaks on the way gets a name
                found = trouble(error, body)
            retries += 1
            failures += found.counts
            if found.turned_down is not None:
                self.refused.add(found.turned_down)
                continue
            self._give_up_where_hopeless(found)
            wait_s = found.wait_s
            if wait_s is None:
                asking = self.asking
                wait_s = backoff(retries, asking.backoff_s, asking.backoff_cap_s, self.draw())
            spent_s = monotonic() - began
            spent = failures >= self.asking.attempts or found.kind == "rejected"
            if spent or spent_s + wait_s > self.asking.patience_s:
                raise self._given_up(found, retries, spent_s, alone=answered == self.answered)
            if found.everybody_waits:
                self.pace.hold(wait_s)
            else:
                await self.sleep(wait_s)

    async def _turn(self, tokens: int) -> None:
        """Wait for our place in the queue, and for whatever the server has asked for meanwhile."""
        wait_s = self.pace.reserve(tokens)
        while wait_s > 0:
            await self.sleep(wait_s)
            wait_s = self.pace.held()

    async def _request(self, client: AsyncOpenAI, body: JsonObject, retries: int) -> Answer:
        began = monotonic()
        async with asyncio.timeout(self.asking.timeout_s):  # also of a server that drips
            raw = await client.chat.completions.with_raw_response.create(
                model=self.endpoint.model, **body
            )
            answer = read_reply(raw.text, monotonic() - began, retries)
        if answer.prompt_tokens is not None and answer.completion_tokens is not None:
            self.pace.settle(_size(body), answer.prompt_tokens + answer.completion_tokens)
        return answer

    def _acceptable(self, wanted: JsonObject) -> JsonObject:
        """The request without what this server has turned down before."""
        left_out = self.refused | ({"tool_choice"} if "tools" in self.refused else set())
        body = {name: value for name, value in wanted.items() if name not in left_out}
        if "max_tokens" in self.refused:
            body["max_completion_tokens"] = wanted["max_tokens"]  # the name newer models want
        return body

    def _give_up_where_hopeless(self, found: Trouble) -> None:
        if found.kind == "full":
            raise ContextFull(found.why)
        if found.kind == "hopeless":
            raise ModelDown(self._says(found.why, found.remedy))
        if found.kind == "unreachable":
            self.unreachable += 1
            if self.unreachable >= self.asking.breaker and not self.answered:
                raise ModelDown(self._says(found.why, found.remedy))

    def _given_up(self, found: Trouble, tries: int, spent_s: float, alone: bool) -> RoundsError:
        """The end of one request; of all of them where several ended so and none was answered."""
        what = f"{tries} tries in {spent_s:.0f} s, the last one: {found.why}"
        if alone:
            self.given_up += 1
        if self.given_up >= self.asking.breaker:
            remedy = found.remedy or "look at the server's log; --resume continues the run"
            return ModelDown(self._says(f"{self.given_up} requests gave up; {what}", remedy))
        return NoAnswer(f"{self.endpoint.url}: {what}")

    def _says(self, why: str, remedy: str) -> str:
        named = f"{self.endpoint.model} at {self.endpoint.url}"
        return f"{named}: {why}; {remedy.format(url=self.endpoint.url, model=self.endpoint.model)}"


def read_reply(text: str, seconds: float = 0.0, retries: int = 0) -> Answer:
    """The first choice of a chat completion. Raises BadReply on anything else."""
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message = choice["message"]
        said, calls = message.get("content"), message.get("tool_calls") or ()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as wrong:
        raise BadReply(f"no chat completion ({type(wrong).__name__}): {text[:80]!r}") from wrong
    if not isinstance(said, str | None):
        raise BadReply(f"the answer's content is {type(said).__name__}, not text")
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Answer(
        text=(said or "").encode("utf-8", "replace").decode(),  # no lone surrogate is ever stored
        truncated=choice.get("finish_reason") == "length",
        call=_called(calls),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        seconds=seconds,
        retries=retries,
    )


def _called(calls: Sequence[Any]) -> tuple[str, str] | None:
    """The first function called: a step is one action."""
    try:
        function = calls[0]["function"] if calls else None
        return (str(function["name"]), str(function["arguments"] or "{}")) if function else None
    except (KeyError, IndexError, TypeError) as wrong:
        raise BadReply(f"a tool call without a function ({type(wrong).__name__})") from wrong


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _remembered(kept: JsonObject) -> Answer | None:
    """An answer from disk, free of charge; None where the file is of another version."""
    try:
        call = tuple(kept["call"]) if kept.get("call") else None
        return Answer(**{**kept, "call": call, "cached": True, "retries": 0})
    except (TypeError, KeyError):
        return None


def _size(body: Mapping[str, Any]) -> int:
    """About how many tokens a request takes: four characters a token, and the whole answer."""
    read = sum(len(message["content"]) for message in body["messages"]) // 4
    return read + int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)
