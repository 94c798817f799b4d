"""The polypharmacy family: its tasks, its agents, and how an episode of it begins.

A door to the rest of the folder; knows nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from data.polypharmacy.tables import load
from env_server.contract import (
    Action,
    AgentCard,
    BadSplit,
    Encoding,
    Episode,
    JsonObject,
    Refusal,
    Split,
    Task,
    task_of,
)
from env_server.envs.polypharmacy import actions, review_generator, seed_case
from env_server.envs.polypharmacy.agents import CARDS
from env_server.envs.polypharmacy.episode import Case, ReviewEpisode
from env_server.envs.polypharmacy.tasks import FAMILY, REVIEWS

VERSION = "0.1.0"


class Polypharmacy:
    """Satisfies `contract.Family`."""

    name = FAMILY
    summary = (
        "Medication review of people of 65 and more: ask about pairs, change the list, finish."
    )
    default_task = "budgeted_screening"
    tasks: Mapping[str, Task] = MappingProxyType({n: r.task for n, r in REVIEWS.items()})
    agents: Mapping[str, AgentCard] = MappingProxyType({card.name: card for card in CARDS})

    def __init__(self, tables: str | Path | None = None) -> None:
        self.use_tables(tables)

    def use_tables(self, directory: str | Path | None) -> None:
        """Play on a hospital's own tables instead of the shipped ones (None).

        Raises BadTable, naming file, line, value and remedy. The family's version then carries the
        tables' digest, so that no episode is mistaken for one on other tables.
        """
        self.tables_directory = None if directory is None else str(Path(directory).resolve())
        self.version = VERSION
        if self.tables_directory is not None:
            self.version += f"+tables.{load(self.tables_directory).version}"

    def begin(self, task: str | None = None, seed: int = 0, split: Split = "train") -> Episode:
        """A fresh review of the patient of (task, seed, split). Raises UnknownTask, BadSplit."""
        chosen = task_of(self, task)
        if split not in chosen.splits:
            raise BadSplit(
                f"{chosen.name} has no split {split!r}; splits: {', '.join(chosen.splits)}"
            )
        case = self.case(chosen.name, seed, split)
        episode_id = f"{chosen.name}-{split}-{seed}"
        return ReviewEpisode(case, seed, split, episode_id, case.start)

    def case(self, task: str, seed: int, split: Split) -> Case:
        """What all episodes of one patient share; remembered, since groups play the same patient."""
        if REVIEWS[task].kind == "seed":
            return seed_case.begin(task, seed, split, self.tables_directory)
        return review_generator.begin(task, seed, split, self.tables_directory)

    def action_from_json(self, payload: object) -> Action | Refusal:
        return actions.from_json(payload)

    def action_schema(self) -> JsonObject:
        return actions.schema()

    def observation_schema(self) -> JsonObject:
        from env_server.envs.polypharmacy.wire import PolypharmacyObservation

        return PolypharmacyObservation.model_json_schema()

    def encoding(self, task: str, name: str = "default") -> Encoding:
        # numpy costs half of the whole import; a server of language models never needs it
        from env_server.envs.polypharmacy.encoding import encoding

        return encoding(task_of(self, task).name, name, self.tables_directory)

    def vocabulary(self) -> tuple[str, ...]:
        """Every domain word a prompt of this family may hold: drugs, conditions, groups, effects."""
        tables = load(self.tables_directory)
        words = dict.fromkeys(tables.drugs)
        words.update(dict.fromkeys(tables.conditions))
        for drug in tables.drugs.values():
            words.update(dict.fromkeys((drug.substitution_group, *sorted(drug.effects))))
        words.update(dict.fromkeys(sorted({p.mechanism for p in tables.pairs.values()})))
        return tuple(words)


family = Polypharmacy()
