"""Conversations advance together, and what is recorded of them is exactly what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from env_server import registry
from env_server.contract import Episode, Step, canonical
from eval.chat import ChatTokens
from eval.dialogue import Limits, converse
from eval.door import LocalDoor, Lost, Move, Request
from eval.generate import Completion
from eval.record import read_episodes
from eval.replay import replay
from eval.trajectory import Trajectory
from prompts.history import replayed
from training.tiny import size, vocabulary

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
TASK = "review_easy"
FAMILY = registry.get("polypharmacy")
FINISH = '{"action_type":"finish_review"}'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return vocabulary(FAMILY, [TASK], size("tiny"))


def requests(count: int) -> list[Request]:
    return [Request(TASK, seed, "train") for seed in range(count)]


@dataclass
class Scripted:
    """Says the given lines, one a turn to everybody, the last one from then on."""

    tokenizer: Any
    lines: Sequence[str]
    truncate: bool = False
    asked: list[list[list[int]]] = field(default_factory=list)

    def __call__(self, contexts: Sequence[Sequence[int]]) -> list[Completion]:
        line = self.lines[min(len(self.asked), len(self.lines) - 1)]
        self.asked.append([list(context) for context in contexts])
        ids = self.tokenizer.encode(line) + ([] if self.truncate else [self.tokenizer.eos_token_id])
        return [Completion(tuple(ids), (-0.5,) * len(ids), self.truncate) for _ in contexts]


def query_of(seed: int) -> str:
    action = FAMILY.begin(TASK, seed, "train").legal_actions()[0].to_json()
    return str(action).replace("'", '"').replace(": ", ":").replace(", ", ",")


def played(tokenizer: Any, *lines: str, **how: Any) -> list[Trajectory]:
    limits = how.pop("limits", Limits())
    door = how.pop("door", LocalDoor(FAMILY))
    said = Scripted(tokenizer, lines, **how)
    return converse(door, requests(3), said, tokenizer, limits, style="brief")


def test_the_recorded_ids_are_those_of_the_whole_chat(tokenizer: Any) -> None:
    lines = ["nonsense", query_of(0), FINISH]
    for trajectory in played(tokenizer, *lines):
        assert trajectory.tokens is not None
        seen = [turn.observation for turn in trajectory.turns] + [trajectory.final]
        words = [turn.text or "" for turn in trajectory.turns]
        chat = replayed(FAMILY, TASK, seen, words, "brief").messages
        whole = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
        assert [*trajectory.tokens.prompt_ids, *trajectory.tokens.completion_ids] == whole


def test_only_sampled_tokens_are_marked_and_carry_a_probability(tokenizer: Any) -> None:
    lines = ["nonsense", FINISH]
    for trajectory in played(tokenizer, *lines):
        tokens = trajectory.tokens
        assert tokens is not None
        assert len(tokens.completion_ids) == len(tokens.mask) == len(tokens.logprobs)
        sampled = [i for i, m in zip(tokens.completion_ids, tokens.mask, strict=True) if m]
        spelled = [t for line in lines for t in [*tokenizer.encode(line), tokenizer.eos_token_id]]
        assert sampled == spelled
        assert {lp for lp, m in zip(tokens.logprobs, tokens.mask, strict=True) if not m} == {0.0}


def test_nothing_is_said_after_the_end_and_the_finished_leave_at_once(tokenizer: Any) -> None:
    said = Scripted(tokenizer, [FINISH])
    trajectories = converse(LocalDoor(FAMILY), requests(3), said, tokenizer, style="brief")
    assert len(said.asked) == 1
    for trajectory in trajectories:
        assert trajectory.final["done"]
        assert trajectory.tokens is not None
        assert trajectory.tokens.completion_ids[-1] == tokenizer.eos_token_id
        assert sum(trajectory.tokens.mask) == len(trajectory.tokens.mask)


def test_an_endless_answer_is_a_truncated_refusal_and_its_turn_is_closed(tokenizer: Any) -> None:
    for trajectory in played(tokenizer, "on and on", truncate=True):
        assert len(trajectory.turns) == FAMILY.tasks[TASK].max_steps
        assert {turn.refusal["kind"] for turn in trajectory.turns if turn.refusal} == {"truncated"}
        tokens = trajectory.tokens
        assert tokens is not None
        assert (tokens.completion_ids[-1], tokens.mask[-1]) == (tokenizer.eos_token_id, 0)


def test_a_full_context_ends_in_refusals_without_a_token(tokenizer: Any) -> None:
    whole = played(tokenizer, "nonsense")[0].tokens
    assert whole is not None
    cap = len(whole.prompt_ids) + 60
    for trajectory in played(tokenizer, "nonsense", limits=Limits(20, cap)):
        assert trajectory.lost is None
        assert trajectory.final["done"]
        assert [turn.text for turn in trajectory.turns][-1] is None
        tokens = trajectory.tokens
        assert tokens is not None
        assert len(tokens.prompt_ids) + len(tokens.completion_ids) <= cap + 40
        if tokens.completion_ids:
            assert tokens.completion_ids[-1] == tokenizer.eos_token_id


class Leaky(LocalDoor):
    """Loses the first episode at its second step, and cannot begin the last."""

    steps = 0

    def begin_many(self, wanted: Sequence[Request]) -> list[Episode | Lost]:
        return [*super().begin_many(wanted[:-1]), Lost("no seat")]

    def step_many(self, moves: Sequence[Move]) -> list[Step | Lost]:
        self.steps += 1
        answers = super().step_many(moves)
        return [Lost("socket closed"), *answers[1:]] if self.steps == 2 else answers


def test_a_lost_episode_says_why_and_the_others_go_on(tokenizer: Any) -> None:
    first, second, third = played(tokenizer, "nonsense", query_of(1), FINISH, door=Leaky(FAMILY))
    assert (first.lost, second.lost, third.lost) == ("socket closed", None, "no seat")
    assert len(first.turns) == 1
    assert second.final["done"]


def test_more_requests_than_seats_are_played_in_turn(tokenizer: Any) -> None:
    door = LocalDoor(FAMILY)
    door.seats = 2
    said = Scripted(tokenizer, [FINISH])
    trajectories = converse(door, requests(5), said, tokenizer, style="brief")
    assert [t.seed for t in trajectories] == [0, 1, 2, 3, 4]
    assert [len(asked) for asked in said.asked] == [2, 2, 1]


def test_the_context_of_a_turn_begins_with_the_context_of_the_last(tokenizer: Any) -> None:
    said = Scripted(tokenizer, ["nonsense", query_of(0), FINISH])
    converse(LocalDoor(FAMILY), requests(1), said, tokenizer, style="brief")
    for (before,), (after,) in zip(said.asked[:-1], said.asked[1:], strict=True):
        assert after[: len(before)] == before
    assert ChatTokens(tokenizer).end == tokenizer.eos_token_id


def test_a_recorded_conversation_plays_again_to_the_same_bytes(tokenizer: Any, tmp_path: Path):
    spoken = played(tokenizer, query_of(0), "hm", FINISH)
    billed = [replace(t, usage={"requests": 3, "cost_usd": None}) for t in spoken]
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b"".join(canonical(t.to_json()) + b"\n" for t in (*spoken, *billed)))
    assert all(t.tokens and t.refusals for t in spoken)
    assert list(replay(path)) == [None] * len(spoken) * 2
    assert list(read_episodes(path))[-1] == billed[-1]
