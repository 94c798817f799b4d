"""`human`: whoever sits at the terminal. Reads what a model reads, answers with a number or with JSON.

Speaks on stderr and listens on stdin, so that stdout stays a table's or a transcript's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TextIO

from env_server.contract import Action, Episode, Family, Refusal, RoundsError, Split, Task
from eval.episode import take_turn, written_down
from eval.heldout import Patients
from eval.roster import Options
from eval.trajectory import Trajectory, Turn
from prompts.history import Dialogue
from prompts.parse import parse, spell
from prompts.render import STYLES, Style

USAGE = "human[:full|brief]"
DEFAULT = "full"
SHOWN = 30  # actions listed unasked
HELP = "Answer with a number or a JSON object. ? lists every action, /word those with the word, q leaves."


class Left(RoundsError, RuntimeError):
    """The person at the terminal has gone."""


def player(argument: str, name: str, options: Options) -> HumanPlayer:
    """The person at this terminal, shown prompts of the style that is named."""
    if argument not in STYLES:
        raise RoundsError(f"human plays with {argument!r}; styles: {', '.join(STYLES)}")
    return HumanPlayer(name, argument)


@dataclass(slots=True)
class HumanPlayer:
    """A person, one episode after the other."""

    name: str
    style: Style = "full"
    listen: TextIO = field(default_factory=lambda: sys.stdin)
    speak: TextIO = field(default_factory=lambda: sys.stderr)
    role: str = "model"

    @property
    def trained_on(self) -> Sequence[Patients]:
        return ()

    def identity(self) -> str:
        return f"a person, {self.style} prompts"

    def plays(self, task: Task) -> bool:
        return True

    def play(
        self, family: Family, task: str, split: Split, seeds: Sequence[int]
    ) -> Iterator[Trajectory]:
        """Raises Left where the person leaves; episodes before that are over and kept."""
        for seed in seeds:
            yield self._play_one(family, family.begin(task, seed, split))

    def _play_one(self, family: Family, episode: Episode) -> Trajectory:
        begun, turns = perf_counter(), list[Turn]()
        seen = episode.observe().to_json()
        dialogue = Dialogue.begin(family, episode.task, seen, self.style)
        self._say(*(message["content"] for message in dialogue.messages), HELP)
        while not episode.done:
            decision, text = self._decide(family, episode.legal_actions())
            turns.append(replace(take_turn(episode, decision), text=text))
            before, seen = seen, episode.observe().to_json()
            dialogue.answer(text).result(before, seen)
            if not episode.done:
                self._say(dialogue.messages[-1]["content"])
        self._say(f"score {episode.score():.3f}")
        return written_down(family, episode, self.name, turns, perf_counter() - begun)

    def _decide(self, family: Family, legal: Sequence[Action]) -> tuple[Action | Refusal, str]:
        """What was decided, and the text of it; whatever is no number goes to the parser."""
        self._list(legal, "", SHOWN)
        while True:
            print("> ", end="", file=self.speak, flush=True)
            line = self.listen.readline()
            said = line.strip()
            if not line or said.casefold() in ("q", "quit"):
                raise Left("the player left; --run with --resume goes on from here")
            if said in ("", "?") or said.startswith("/"):
                self._list(legal, said.removeprefix("/").strip("? "), len(legal))
            elif said.isdecimal() and 1 <= int(said) <= len(legal):
                chosen = legal[int(said) - 1]
                return chosen, spell(chosen)
            elif said.isdecimal():
                self._say(f"there is no action {said}; they go from 1 to {len(legal)}")
            else:
                return parse(family, said), said

    def _list(self, legal: Sequence[Action], word: str, most: int) -> None:
        found = [(n, spell(a)) for n, a in enumerate(legal, 1) if word in spell(a)]
        # the last legal action usually ends the episode: never cut it off
        shown = found if len(found) <= most else [*found[: most - 1], found[-1]]
        rows = [f"{n:4d}  {text}" for n, text in shown]
        left = len(found) - len(shown)
        self._say(*rows, *([f"      and {left} more: ? lists them all"] if left else []))

    def _say(self, *texts: str) -> None:
        for text in texts:
            print(text, file=self.speak, flush=True)
