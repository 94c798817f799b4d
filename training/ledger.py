"""Is every token that would get gradient accounted for? The checks a batch of rollouts must pass.

Looks at finished trajectories only, and recomputes what they claim: the words from the
conversation, the log-probabilities from the model, the rewards from the environment. Knows nothing
of who played them, of TRL, or of what is done about a violation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan
from typing import Any

import torch

from env_server.contract import Family
from eval import replay
from eval.chat import ChatTokens
from eval.door import Request
from eval.trajectory import Tokens, Trajectory
from prompts.history import replayed
from prompts.render import Style

CHECKS = ("count", "patient", "shape", "mask", "likelihood", "replay", "end")


@dataclass(frozen=True, slots=True)
class Violation:
    """One promise of a rollout that does not hold. `check` is one of CHECKS."""

    check: str
    episode: str
    why: str

    def __str__(self) -> str:
        return f"{self.check}: {self.episode}: {self.why}"


def audit(
    family: Family,
    requests: Sequence[Request],
    played: Sequence[Trajectory],
    chat: ChatTokens,
    style: Style,
    model: Any | None,
    temperature: float = 1.0,
    tolerance: float = 1e-3,
) -> list[Violation]:
    """Every violation found in `played`, which answers `requests` one by one, in order.

    model: a causal language model whose plain forward pass must give the recorded
    log-probabilities within `tolerance` (nats a token); None leaves that check out. Lost episodes
    are passed over: they carry no token. Raises nothing for a bad batch: that is what it reports.
    """
    found = list(_counts(requests, played))
    finished = [t for t in played if t.lost is None]
    found += _patients(finished)
    sound = []
    for one in finished:
        broken = [*_shape(one)]
        if not broken:
            broken += _words(family, one, chat, style)
            sound.append(one)
        found += [*broken, *_replayed(family, one), *_end(one)]
    if model is not None:
        found += _likelihood(sound, model, temperature, tolerance)
    return found


def name_of(played: Trajectory) -> str:
    return f"{played.task} {played.split} {played.seed}"


def _counts(requests: Sequence[Request], played: Sequence[Trajectory]) -> Iterator[Violation]:
    """As many rows as prompts, each the patient that was asked for."""
    if len(requests) != len(played):
        yield Violation("count", "the batch", f"{len(requests)} prompts, {len(played)} rows")
    for i, (asked, given) in enumerate(zip(requests, played, strict=False)):
        got = Request(given.task, given.seed, given.split)
        if asked != got:
            yield Violation("patient", f"row {i}", f"asked for {asked}, played {got}")


def _patients(played: Sequence[Trajectory]) -> Iterator[Violation]:
    """Whoever has the same (task, split, seed) has met the same patient in the same words."""
    first: dict[tuple[str, str, int], Trajectory] = {}
    for one in played:
        known = first.setdefault((one.task, one.split, one.seed), one)
        if one.turns and known.turns and one.turns[0].observation != known.turns[0].observation:
            yield Violation("patient", name_of(one), "two attempts opened on different patients")
        elif one.tokens and known.tokens and one.tokens.prompt_ids != known.tokens.prompt_ids:
            yield Violation("patient", name_of(one), "two attempts had different prompts")


def _shape(played: Trajectory) -> Iterator[Violation]:
    tokens = played.tokens
    if tokens is None:
        yield Violation("shape", name_of(played), "no tokens were recorded")
        return
    lengths = (len(tokens.completion_ids), len(tokens.mask), len(tokens.logprobs))
    if len(set(lengths)) > 1:
        yield Violation(
            "shape", name_of(played), f"ids, mask and log-probabilities have lengths {lengths}"
        )
        return
    for at, (mask, logprob) in enumerate(zip(tokens.mask, tokens.logprobs, strict=True)):
        if mask not in (0, 1) or not isfinite(logprob) or (mask == 0 and logprob != 0.0):
            yield Violation(
                "shape", name_of(played), f"token {at}: mask {mask}, log-probability {logprob}"
            )
            return


def _words(
    family: Family, played: Trajectory, chat: ChatTokens, style: Style
) -> Iterator[Violation]:
    """The conversation, told again, gives the same prompt, the same masks and the same tokens."""
    tokens = played.tokens
    assert tokens is not None, "_shape() has seen to it"
    spoken = [turn for turn in played.turns if turn.text is not None]
    if not spoken:
        return
    silent = len(spoken) < len(played.turns)  # the context was full before the end
    seen = [turn.observation for turn in played.turns][: len(spoken)]
    after = played.turns[len(spoken)].observation if silent else played.final
    told = replayed(
        family, played.task, [*seen, after], [t.text or "" for t in spoken], style
    ).messages
    if tuple(chat.prompt(told[:2])) != tokens.prompt_ids:
        yield Violation("mask", name_of(played), "the prompt is not what the environment says")
        return
    why = _walk(tokens, told[2:], chat)
    if why:
        yield Violation("mask", name_of(played), why)


def _walk(tokens: Tokens, messages: Sequence[dict[str, str]], chat: ChatTokens) -> str | None:
    """What is wrong with the completion, read as answer, reply, answer ...; None if nothing is."""
    ids, mask, at = tokens.completion_ids, tokens.mask, 0
    answers = sum(message["role"] == "assistant" for message in messages)
    for number in range(answers):
        start = at
        while at < len(ids) and mask[at] == 1:
            at += 1
        text, said = messages[2 * number]["content"], ids[start:at]
        if text not in (chat.text(said), chat.text(said[:-1])):
            return f"answer {number + 1} is {text!r}, its masked-in tokens say {chat.text(said)!r}"
        expected = [] if said and said[-1] == chat.end else [chat.end]
        if number + 1 < answers:
            expected += chat.reply(messages[2 * number + 1]["content"])
        if list(ids[at : at + len(expected)]) != expected or any(mask[at : at + len(expected)]):
            return f"after answer {number + 1} the environment's tokens are not its own words"
        at += len(expected)
    return None if at == len(ids) else f"{len(ids) - at} tokens after the last answer"


def _replayed(family: Family, played: Trajectory) -> Iterator[Violation]:
    """The same actions pay the same rewards: no reply was late, none belonged to somebody else."""
    found = replay.check(0, played, played.to_json(), family)
    if found is not None:
        yield Violation(
            "replay",
            name_of(played),
            f"{found.where} was {found.recorded}, played again {found.again}",
        )


def _end(played: Trajectory) -> Iterator[Violation]:
    """No turn and no token after the episode was done."""
    early = [i for i, turn in enumerate(played.turns[1:], 2) if turn.observation.get("done")]
    if early:
        yield Violation("end", name_of(played), f"turn {early[0]} came after the end")
    if played.final.get("done") is False:
        yield Violation("end", name_of(played), "the last observation is not the end")


def _likelihood(
    played: Sequence[Trajectory], model: Any, temperature: float, tolerance: float
) -> Iterator[Violation]:
    for one in played:
        tokens = one.tokens
        if tokens is None or not any(tokens.mask):
            continue
        told = plain_logprobs(model, tokens, temperature)
        gaps = [
            (abs(now - then), at)
            for at, (now, then, mask) in enumerate(
                zip(told, tokens.logprobs, tokens.mask, strict=True)
            )
            if mask
        ]
        # NaN compares with nothing: max() would pass over one that does not stand first
        worst, at = max(gaps, key=lambda gap: inf if isnan(gap[0]) else gap[0])
        if not worst <= tolerance:
            yield Violation(
                "likelihood",
                name_of(one),
                f"token {at}: recorded {tokens.logprobs[at]:.4f}, a plain forward pass gives"
                f" {told[at]:.4f} (tolerance {tolerance:g})",
            )


@torch.no_grad()
def plain_logprobs(model: Any, tokens: Tokens, temperature: float = 1.0) -> list[float]:
    """log p of each completion token, by one forward pass over the whole conversation; length T."""
    device = next(model.parameters()).device
    ids_1T = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]], device=device)
    training = model.training
    model.eval()
    try:
        logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0]
    finally:
        model.train(training)
    first = len(tokens.prompt_ids)
    scores_TV = torch.log_softmax(logits_TV[first - 1 : -1].float() / temperature, dim=-1)
    taken_T = scores_TV.gather(1, ids_1T[0, first:, None])[:, 0]
    return [float(value) for value in taken_T]
