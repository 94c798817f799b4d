"""A served model as a player: a conversation an episode, many of them at once, each lost alone.

Knows how an observation becomes a request and an answer a decision, and what an episode cost;
requests are `llm`'s business. The environment has a thread of its own, so that building a case
never keeps an answer waiting.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from env_server.contract import (
    Action,
    Family,
    JsonObject,
    Refusal,
    Split,
    Task,
)
from eval.endpoint import Asking
from eval.episode import take_turn, written_down
from eval.heldout import Patients
from eval.llm import Answer, ContextFull, NoAnswer, ServedModel
from eval.trajectory import Trajectory, Turn
from prompts.history import Dialogue
from prompts.parse import parse, spell
from prompts.tools import parse_tool_call, tools

if TYPE_CHECKING:
    from openai import AsyncOpenAI

NO_ROOM = "the conversation has no room for another answer"


@dataclass(slots=True)
class Bill:
    """What one episode has spent. Counts are None where the server does not tell."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    seconds: float = 0.0  # in which the model answered, as first measured; waits are left out

    def add(self, answer: Answer) -> None:
        self.requests += 1
        self.cached += answer.cached
        self.retries += answer.retries
        self.prompt_tokens = _sum(self.prompt_tokens, answer.prompt_tokens)
        self.completion_tokens = _sum(self.completion_tokens, answer.completion_tokens)
        self.seconds += answer.seconds

    def to_json(self, asking: Asking) -> JsonObject:
        return {
            "requests": self.requests,
            "cached": self.cached,
            "retries": self.retries,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cost_usd": asking.cost_usd(self.prompt_tokens, self.completion_tokens),
        }


@dataclass(slots=True)
class Conversation:
    """One episode as the model lives it. Decide, then say what came of it."""

    family: Family
    model: ServedModel
    temperature: float
    top_p: float
    dialogue: Dialogue
    seen: JsonObject
    bill: Bill = field(default_factory=Bill)
    full: bool = False  # the model reads no more: what is left is played with `truncated` refusals

    @classmethod
    def begin(
        cls,
        family: Family,
        task: Task,
        observation: JsonObject,
        model: ServedModel,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> Conversation:
        dialogue = Dialogue.begin(family, task, observation, model.asking.style)
        return cls(family, model, temperature, top_p, dialogue, observation)

    async def decide(self, client: AsyncOpenAI) -> tuple[Action | Refusal, str | None]:
        """(what to do, the model's own words). Raises ModelDown or NoAnswer."""
        if self.full:
            return Refusal("truncated", NO_ROOM), None
        try:
            answer = await self.model.ask(client, self.request())
        except ContextFull:
            self.full = True
            return Refusal("truncated", NO_ROOM), None
        self.bill.add(answer)
        decision = read_answer(self.family, answer)
        self.dialogue.answer(_kept(answer, decision))
        return decision, _verbatim(answer)

    def told(self, after: JsonObject) -> None:
        """What the last decision led to."""
        if not self.full:
            self.dialogue.result(self.seen, after)
        self.seen = after

    def request(self) -> JsonObject:
        """The chat request of the next answer, without the model's name."""
        asking = self.model.asking
        body: JsonObject = {
            "messages": [dict(message) for message in self.dialogue.messages],
            "max_tokens": asking.answer_tokens,
            "temperature": self.temperature,
        }
        if self.top_p < 1.0:
            body["top_p"] = self.top_p
        if asking.form == "tools":
            body |= {"tools": tools(self.family), "tool_choice": "required"}
        if asking.form == "schema":
            named = {"name": "action", "schema": self.family.action_schema()}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body


def read_answer(family: Family, answer: Answer) -> Action | Refusal:
    """What the model meant. A cut answer is refused, even where an action can be read in it."""
    if answer.call is not None and not answer.truncated:
        return parse_tool_call(family, *answer.call)
    return parse(family, answer.text, truncated=answer.truncated)


def _verbatim(answer: Answer) -> str:
    """The model's words; a function it called as `name(arguments)`."""
    called = "{}({})".format(*answer.call) if answer.call else ""
    return "\n".join(part for part in (answer.text, called) if part)


def _kept(answer: Answer, decision: Action | Refusal) -> str:
    """What stays in the conversation: a call as the action it is, words without the thinking before them."""
    if answer.call is not None and not isinstance(decision, Refusal):
        return spell(decision)
    spoken = _verbatim(answer).rpartition("</think>")[2].strip()
    return spoken or "(nothing)"  # some servers turn an empty message down


def _sum(so_far: int | None, more: int | None) -> int | None:
    return None if so_far is None or more is None else so_far + more


# -- many episodes at once ------------------------------------------------------------------------


@dataclass(slots=True)
class ServedPlayer:
    """A served model as `eval.compare` knows players."""

    name: str
    model: ServedModel
    temperature: float = 0.0
    top_p: float = 1.0
    batch: int = 64
    role: str = "model"

    @property
    def trained_on(self) -> Sequence[Patients]:
        return ()  # nobody can tell what a served model has read

    def identity(self) -> str:
        """Which model, and how it is asked; prices and limits may change between two halves of a run."""
        asking, endpoint = self.model.asking, self.model.endpoint
        how = f"{asking.form} {asking.style} {asking.answer_tokens}"
        return f"{endpoint.model}@{endpoint.url} {how}"

    def plays(self, task: Task) -> bool:
        return self.model.asking.asks_about(task.name)

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        """Every episode as soon as it is over. Raises ModelDown; an episode alone is `lost`."""
        if seeds:
            yield from _streamed(lambda put: self._play_all(family, task, split, seeds, put))

    async def _play_all(
        self,
        family: Family,
        task: str,
        split: Split,
        seeds: Sequence[int],
        put: Callable[[Trajectory], None],
    ) -> None:
        waiting = iter(seeds)
        seats = max(1, min(self.batch, self.model.asking.concurrency, len(seeds)))
        with ThreadPoolExecutor(1, thread_name_prefix="environment") as environment:
            async with self.model.line() as client:

                async def seat() -> None:
                    for seed in waiting:
                        put(await self._play_one(client, environment, family, task, split, seed))

                async with asyncio.TaskGroup() as table:
                    for _ in range(seats):
                        table.create_task(seat())

    async def _play_one(
        self,
        client: AsyncOpenAI,
        environment: ThreadPoolExecutor,
        family: Family,
        task: str,
        split: Split,
        seed: int,
    ) -> Trajectory:
        loop, turns, lost = asyncio.get_running_loop(), list[Turn](), None
        episode = await loop.run_in_executor(environment, family.begin, task, seed, split)
        seen = episode.observe().to_json()
        how = self.model, self.temperature, self.top_p
        conversation = Conversation.begin(family, episode.task, seen, *how)
        while not episode.done and lost is None:
            try:
                decision, text = await conversation.decide(client)
            except NoAnswer as why:
                lost = str(why)
                break
            turn = await loop.run_in_executor(environment, take_turn, episode, decision)
            turns.append(replace(turn, text=text))
            conversation.told(episode.observe().to_json())
        bill = conversation.bill
        record = written_down(family, episode, self.name, turns, bill.seconds, lost)
        return replace(record, usage=bill.to_json(self.model.asking))


def _streamed(work: Callable[[Callable[[Trajectory], None]], Any]) -> Iterator[Trajectory]:
    """What `work` puts, as it comes, from an event loop on a thread of its own.

    A caller that stops listening cancels the work; what the work raises is raised here.
    """
    done: queue.SimpleQueue[Trajectory | BaseException | None] = queue.SimpleQueue()
    stop: list[Callable[[], object]] = []
    begun = threading.Event()

    async def guarded() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        begun.set()
        await work(done.put)

    def run() -> None:
        try:
            asyncio.run(guarded())
        except asyncio.CancelledError:
            done.put(None)
        except BaseException as error:  # handed over: raised where the episodes are wanted
            done.put(_first(error))
        else:
            done.put(None)

    thread = threading.Thread(target=run, name="rounds-llm", daemon=True)
    thread.start()
    begun.wait()
    try:
        while (found := done.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        with suppress(RuntimeError):  # its loop has ended by itself meanwhile
            stop[0]()
        thread.join()


def _first(error: BaseException) -> BaseException:
    """The cause that a group of tasks ended with: the others were cancelled for it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
