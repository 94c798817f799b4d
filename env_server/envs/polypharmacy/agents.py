"""Every agent the family ships, by name; one name may stand for two players, one a kind of task.

Knows which player goes with which task, not how they play.
"""

from __future__ import annotations

from typing import cast

from env_server.contract import Agent, AgentCard, Episode
from env_server.envs.polypharmacy import seed_agents
from env_server.envs.polypharmacy.episode import ReviewEpisode
from env_server.envs.polypharmacy.review_agents import ReviewHeuristic, ReviewReference
from env_server.envs.polypharmacy.review_case import ReviewCase
from env_server.envs.polypharmacy.tasks import REVIEWS


def _heuristic(episode: Episode) -> Agent:
    if episode.task.seed:
        return seed_agents.SeedHeuristic()
    return ReviewHeuristic()


def _reference(episode: Episode) -> Agent:
    case = cast(ReviewEpisode, episode).case
    if isinstance(case, ReviewCase):
        return ReviewReference(case.plan())
    return seed_agents.SeedReference(cast(ReviewEpisode, episode))


CARDS: tuple[AgentCard, ...] = (
    *seed_agents.CARDS,
    AgentCard(
        "heuristic",
        "heuristic",
        _heuristic,
        "What a practitioner does: Beers rows, suspicious pairs, the severe ones defused.",
    ),
    AgentCard(
        "reference",
        "reference",
        _reference,
        "Knows everything: the certified optimum on review tasks, the best known plan on seed tasks.",
        # the beam of the two longer seed tasks is not proved to find the best plan
        exact_on=("easy_screening", *(n for n, r in REVIEWS.items() if r.kind == "review")),
    ),
)
