"""A conversation between an environment and a model, grown message by message.

Knows only observations and answers; a longer conversation of the same episode always begins with
the shorter one, so a trainer may append tokens and never write any again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from env_server.contract import Family, JsonObject, Task
from prompts import render
from prompts.render import Style

Message = dict[str, str]  # role (system, user, assistant) and content


@dataclass(slots=True)
class Dialogue:
    """One episode as chat messages. `answer` and `result` add to it and return it."""

    family: str
    style: Style
    messages: list[Message] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        family: Family,
        task: Task | str,
        observation: JsonObject,
        style: Style = "full",
    ) -> Dialogue:
        """The briefing and the whole case: what a model sees before its first answer."""
        begun = cls(family.name, style)
        begun._say("system", render.briefing(family, task, style))
        begun._say("user", render.opening(family, observation, style))
        return begun

    def answer(self, text: str) -> Dialogue:
        """Add what the model said, verbatim."""
        self._say("assistant", text)
        return self

    def result(self, before: JsonObject, after: JsonObject) -> Dialogue:
        """Add what the last answer led to; nothing once the episode is over.

        An episode ends with the model's own words: no token follows, and the outcome, which
        names the optimum, never enters a conversation.
        """
        if not after["done"]:
            self._say("user", render.update(self.family, before, after, self.style))
        return self

    def _say(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})


def replayed(
    family: Family,
    task: Task | str,
    observations: Sequence[JsonObject],
    answers: Sequence[str],
    style: Style = "full",
) -> Dialogue:
    """The dialogue of an episode already played.

    `observations` has the one before each answer, then the last: one more than `answers`.
    """
    if len(observations) != len(answers) + 1:
        raise ValueError(
            f"{len(answers)} answers need one more observation, not {len(observations)}"
        )
    dialogue = Dialogue.begin(family, task, observations[0], style)
    for answer, before, after in zip(answers, observations[:-1], observations[1:], strict=True):
        dialogue.answer(answer).result(before, after)
    return dialogue


def messages(
    family: Family,
    task: Task | str,
    observations: Sequence[JsonObject],
    answers: Sequence[str],
    style: Style = "full",
) -> list[Message]:
    """The chat messages of an episode already played; see `replayed`."""
    return replayed(family, task, observations, answers, style).messages
