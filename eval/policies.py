"""Policies that training left on disk, one sub-folder a task: what every kind of them shares.

Knows folders, fingerprints and who was learned from; nothing of networks, or of how they play.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from env_server.contract import Task
from eval.heldout import Patients, trained_on
from eval.language import fingerprint
from eval.roster import NotReady

POLICY = "policy.safetensors"


def places_in(argument: str, how: Callable[[str], str]) -> tuple[Path, ...]:
    """The folder itself where it holds a policy, else its sub-folders that do.

    how: the command that makes one for a task. Raises NotReady where there is none.
    """
    folder = Path(argument)
    if (folder / POLICY).is_file():
        return (folder,)
    found = tuple(sorted(path.parent for path in folder.glob(f"*/{POLICY}")))
    if not found:
        raise NotReady(f"no {POLICY} in {argument} or below; make one with: {how('TASK')}")
    return found


@dataclass(slots=True)
class TaskPolicies:
    """A policy a task, each in its own folder."""

    name: str
    folder: Path
    places: tuple[Path, ...]
    role: str = "model"

    @property
    def trained_on(self) -> Sequence[Patients]:
        return tuple(dict.fromkeys(p for place in self.places for p in trained_on(place)))

    def identity(self) -> str:
        """Fingerprints of the weights, so that two halves of a run are one policy's."""
        return "+".join(f"{place.name}:{fingerprint(place)}" for place in self.places)

    def plays(self, task: Task) -> bool:
        return True  # a task not trained yet is for `play` to say, with the command
