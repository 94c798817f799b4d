"""Many patients reviewed at once by one language model, each in a conversation of its own.

All live episodes advance together: one `generate` a turn, and while the last answers are read the
environment works on the first. Knows how a
conversation becomes token ids, masks and log-probabilities; nothing of how a model samples, where
the environment runs, or what the tokens are used for afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeAlias

from env_server.contract import Action, Episode, Family, JsonObject, Refusal, Step
from eval.chat import ChatTokens
from eval.door import Door, Lost, Move, Request
from eval.generate import Completion, Generate
from eval.trajectory import Tokens, Trajectory, Turn, plain
from prompts.history import Dialogue
from prompts.parse import parse
from prompts.render import Style

# what a seat does, and its own words; a full seat has none
Decision: TypeAlias = "tuple[Action | Refusal, str | None]"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a conversation may cost.

    answer_tokens: the cap of one answer; the same number the `generate` in use was built with.
    context_tokens: the cap of prompt and conversation together. An episode that has no room for
    another answer is played to its end with `truncated` refusals, and gets the score it has earned.
    """

    answer_tokens: int = 64
    context_tokens: int = 4096


@dataclass(slots=True)
class _Seat:
    """One conversation under way."""

    request: Request
    episode: Episode
    dialogue: Dialogue
    observation: JsonObject
    prompt_ids: list[int]
    completion_ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    full: bool = False  # no room for another answer
    done: bool = False
    lost: str | None = None

    @property
    def live(self) -> bool:
        return not self.done and self.lost is None

    @property
    def context(self) -> list[int]:
        return self.prompt_ids + self.completion_ids

    def sampled(self, completion: Completion) -> None:
        self.completion_ids += completion.ids
        self.mask += [1] * len(completion.ids)
        self.logprobs += completion.logprobs

    def told(self, ids: Sequence[int]) -> None:
        """Tokens that are the environment's: never learned from."""
        self.completion_ids += ids
        self.mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)


def converse(
    door: Door,
    requests: Sequence[Request],
    generate: Generate,
    tokenizer: Any,
    limits: Limits | None = None,
    style: Style = "full",
    agent: str = "policy",
    template_options: dict[str, Any] | None = None,
) -> list[Trajectory]:
    """Play every request to its end and return the trajectories, tokens included, in order.

    An episode that the door loses comes back with `lost` set: its score is 0.0 and means nothing.
    """
    began = perf_counter()
    limits = limits or Limits()
    chat = ChatTokens(tokenizer, template_options)
    seats: list[_Seat | tuple[Request, Lost]] = []
    for start in range(0, len(requests), door.seats):
        table = _seated(door, requests[start : start + door.seats], chat, limits, style)
        _play(table, door, generate, chat, limits)
        seats += table
    seconds = (perf_counter() - began) / max(len(seats), 1)
    return [_recorded(seat, door, agent, seconds) for seat in seats]


def _play(
    table: Sequence[_Seat | tuple[Request, Lost]],
    door: Door,
    generate: Generate,
    chat: ChatTokens,
    limits: Limits,
) -> None:
    """Everybody at the table answers once a turn, until the last one has finished."""
    while live := [s for s in table if isinstance(s, _Seat) and s.live]:
        decisions: list[Decision] = []
        moves = _moves(live, generate, chat, door, decisions)
        for at, (seat, step) in enumerate(zip(live, door.step_each(moves), strict=True)):
            _settle(seat, decisions[at], step, chat, limits)


def _seated(
    door: Door, requests: Sequence[Request], chat: ChatTokens, limits: Limits, style: Style
) -> list[_Seat | tuple[Request, Lost]]:
    opened = door.begin_many(requests)
    return [
        (request, episode)
        if isinstance(episode, Lost)
        else _sit(door.family_of(request.task), request, episode, chat, limits, style)
        for request, episode in zip(requests, opened, strict=True)
    ]


def _sit(
    family: Family,
    request: Request,
    episode: Episode,
    chat: ChatTokens,
    limits: Limits,
    style: Style,
) -> _Seat:
    observation = episode.observe().to_json()
    dialogue = Dialogue.begin(family, request.task, observation, style)
    seat = _Seat(request, episode, dialogue, observation, chat.prompt(dialogue.messages))
    seat.full = len(seat.prompt_ids) + limits.answer_tokens > limits.context_tokens
    return seat


def _moves(
    live: Sequence[_Seat],
    generate: Generate,
    chat: ChatTokens,
    door: Door,
    decisions: list[Decision],
) -> Iterator[Move]:
    """Each seat's move, as soon as its answer has been read; `decisions` is filled beside."""
    talking = [seat for seat in live if not seat.full]
    answers = iter(generate([seat.context for seat in talking]) if talking else [])
    for seat in live:
        if seat.full:
            refusal = Refusal("truncated", "the conversation has no room for another answer")
            decisions.append((refusal, None))
        else:
            family = door.family_of(seat.request.task)
            decisions.append(_heard(seat, next(answers), chat, family))
        yield seat.episode, decisions[-1][0]


def _heard(
    seat: _Seat, completion: Completion, chat: ChatTokens, family: Family
) -> tuple[Action | Refusal, str]:
    """Take the answer down verbatim, close the turn if the model did not, and read it."""
    seat.sampled(completion)
    text = chat.text(completion.ids if completion.truncated else completion.ids[:-1])
    if not completion.ids or completion.ids[-1] != chat.end:
        seat.told([chat.end])  # the template's own end of turn, which the model did not say
    seat.dialogue.answer(text)
    return parse(family, text, truncated=completion.truncated), text


def _settle(
    seat: _Seat,
    decision: Decision,
    step: Step | Lost,
    chat: ChatTokens,
    limits: Limits,
) -> None:
    """Write the turn down and, where the review goes on, tell the model what happened."""
    if isinstance(step, Lost):
        seat.lost = step.why
        return
    seen = step.observation.to_json()
    seat.turns.append(_turn(seat.observation, decision, step))
    before, seat.observation, seat.done = seat.observation, seen, step.done
    if step.done or seat.full:
        return
    seat.dialogue.result(before, seen)
    suffix = chat.reply(seat.dialogue.messages[-1]["content"])
    room = limits.context_tokens - len(seat.prompt_ids) - len(seat.completion_ids)
    seat.full = len(suffix) + limits.answer_tokens > room
    if not seat.full:  # so that the last token is always the end of an answer
        seat.told(suffix)


def _turn(before: JsonObject, decision: Decision, step: Step) -> Turn:
    said, text = decision
    return Turn(
        observation=before,
        action=None if isinstance(said, Refusal) else said.to_json(),
        refusal=step.refusal.to_json() if step.refusal else None,
        reward=step.reward,
        parts=dict(step.parts),
        text=text,
    )


def _recorded(
    seat: _Seat | tuple[Request, Lost], door: Door, agent: str, seconds: float
) -> Trajectory:
    if not isinstance(seat, _Seat):
        request, loss = seat
        return _trajectory(door.family_of(request.task), request, agent, seconds, lost=loss.why)
    over = seat.lost is None
    return _trajectory(
        door.family_of(seat.request.task),
        seat.request,
        agent,
        seconds,
        turns=tuple(seat.turns),
        final=seat.observation,
        score=seat.episode.score() if over else 0.0,
        outcome=plain(seat.episode.outcome()) if over else {},
        tokens=Tokens(
            tuple(seat.prompt_ids),
            tuple(seat.completion_ids),
            tuple(seat.mask),
            tuple(seat.logprobs),
        ),
        lost=seat.lost,
    )


def _trajectory(
    family: Family, request: Request, agent: str, seconds: float, **what_happened: Any
) -> Trajectory:
    nothing: dict[str, Any] = {"turns": (), "final": {}, "score": 0.0}
    return Trajectory(
        family=family.name,
        task=request.task,
        split=request.split,
        seed=request.seed,
        version=family.version,
        agent=agent,
        seconds=seconds,
        **{**nothing, **what_happened},
    )
