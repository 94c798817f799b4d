"""The drug target family: its tiers, its agents, and how an episode of it begins.

A door to the rest of the folder; knows nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

from data.drug_target.tables import load
from env_server.contract import (
    Action,
    AgentCard,
    BadSplit,
    Encoding,
    Episode,
    JsonObject,
    Measure,
    Option,
    Refusal,
    Split,
    Task,
    did_you_mean,
    read_options,
    task_of,
)
from env_server.envs.drug_target import actions, channels, generator, outcome
from env_server.envs.drug_target.agents import CARDS
from env_server.envs.drug_target.episode import ValidationEpisode
from env_server.envs.drug_target.generator import AS_IT_IS, Case, Options
from env_server.envs.drug_target.rubrics import RUBRICS, Rubric
from env_server.envs.drug_target.tasks import FAMILY, SPLITS, TASKS, TIERS, Tier, graded, parted
from env_server.seeds import digest

VERSION = "0.1.0"


class DrugTarget:
    """Satisfies `contract.Family`."""

    name = FAMILY
    version = VERSION
    summary = (
        "Drug target validation: buy evidence with credits, then report go or no_go and how sure."
    )
    default_task = "target_medium"
    tasks: Mapping[str, Task] = TASKS
    agents: Mapping[str, AgentCard] = MappingProxyType({card.name: card for card in CARDS})
    measures: Mapping[str, Measure] = outcome.MEASURES

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """What `begin` takes beyond task, seed and split."""
        scenarios = tuple(load().scenarios)
        return MappingProxyType(
            {
                "scenario": Option("word", "a case made by hand, whatever the tier", scenarios),
                "difficulty": Option("word", "the tier, whatever the task's", TIERS),
                "rubric": Option("word", "how it is graded, whatever the task's", RUBRICS),
                "kappa": Option(
                    "number", "how far gene and cancer foretell the profile", least=0, most=1
                ),
                "anonymise": Option("flag", "hide the gene's name"),
                "budget": Option("whole", "credits, instead of the tier's", least=1, most=1000),
            }
        )

    def begin(
        self,
        task: str | None = None,
        seed: int = 0,
        split: Split = "train",
        *,
        scenario: str | None = None,
        difficulty: Tier | None = None,
        rubric: Rubric | None = None,
        kappa: float | None = None,
        anonymise: bool = False,
        budget: int | None = None,
    ) -> ValidationEpisode:
        """A fresh validation of the case of (task, seed, split) and of what else was chosen.

        Raises UnknownTask, BadSplit, BadOption.
        """
        chosen = {
            "scenario": scenario,
            "difficulty": difficulty,
            "rubric": rubric,
            "kappa": kappa,
            "anonymise": anonymise,
            "budget": budget,
        }
        read = read_options(self, chosen)
        tier, own = parted(task_of(self, task).name)
        tier = f"target_{read.pop('difficulty')}" if "difficulty" in read else tier
        graded_by: Rubric = read.pop("rubric", own)
        name = graded(tier, graded_by).name
        if split not in SPLITS:
            raise BadSplit(did_you_mean(f"{name} split", split, SPLITS))
        options = Options(**read)
        return start(generator.begin(tier, seed, split, options), graded_by, options)

    def forecast(self, told: Mapping[str, Any]) -> tuple[float, bool] | None:
        """The chance of go that a report stated, and whether go was right; one half without a report."""
        return told["stated_p_go"], told["right_decision"] == "go"

    def latent(self, episode: Episode) -> JsonObject:
        """What no agent sees of an episode under way: the hidden state, and the exact posterior."""
        from env_server.envs.drug_target.latent import report_of

        return report_of(cast(ValidationEpisode, episode))

    def action_from_json(self, payload: object) -> Action | Refusal:
        return actions.from_json(payload)

    def action_schema(self) -> JsonObject:
        return actions.schema()

    def observation_schema(self) -> JsonObject:
        from env_server.envs.drug_target.wire import ValidationObservation

        return ValidationObservation.model_json_schema()

    def encoding(self, task: str, name: str = "default") -> Encoding:
        from env_server.envs.drug_target.encoding import encoding

        return encoding(task_of(self, task).name, name)

    def vocabulary(self) -> tuple[str, ...]:
        """Every domain word a prompt of this family may hold: genes, assays, what readings say."""
        tables = load()
        words = dict.fromkeys(actions.ACTION_TYPES)
        for assay in tables.assays.values():
            for parameter in assay.parameters:
                words.update(dict.fromkeys((parameter.name, *parameter.values)))
        words.update(dict.fromkeys(tables.targets))
        words.update(dict.fromkeys(s.target for s in tables.scenarios.values()))
        said = [word for group in channels.WORDS.values() for word in group]
        words.update(dict.fromkeys((*said, *channels.THREE, channels.NO_DATA)))
        return tuple(words)


def start(case: Case, rubric: Rubric, options: Options = AS_IT_IS) -> ValidationEpisode:
    """A fresh episode of a case, graded by one rubric; another choice, another name."""
    # numpy is half of an import: a server that begins no case of this family never pays for it
    from env_server.envs.drug_target.belief import opening

    task = graded(case.validation.task.name, rubric)
    given = asdict(options).items() - asdict(AS_IT_IS).items()
    # a number: the words of a choice would tell whoever plays, as a scenario's name does
    mark = [f"{digest('options', *sorted(map(str, given))) % 16**6:06x}"] if given else []
    name = "-".join([task.name, case.split, str(case.seed), *mark])
    return ValidationEpisode(case, case.seed, case.split, name, rubric, opening(case.modality))


family = DrugTarget()
