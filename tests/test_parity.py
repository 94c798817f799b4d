"""The same actions lead to the same bytes in process, over a socket and over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import httpx
import pytest
from servers import serving

from env_server import registry
from env_server.client import Connection, connect
from env_server.contract import Action, Refusal, canonical

CASES = [
    (name, task, split)
    for name in registry.names()
    for task, limits in registry.get(name).tasks.items()
    for split in limits.splits
]
STEP = ("observation", "reward", "parts", "done", "refusal", "info")
REFUSALS = (
    Refusal("malformed", "no JSON object in the answer: 'stóp \"warfarin\"'"),
    Refusal("truncated", "the answer ran out of tokens"),
    Refusal("empty", ""),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a process of its own: nothing is shared with this one but the code."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def links(url: str) -> Iterator[dict[str, Connection]]:
    opened = {name: connect(url, name, pool=4) for name in registry.names()}
    yield opened
    for link in opened.values():
        link.close()


def moves(name: str, task: str, split: Any, seed: int) -> list[Action | Refusal]:
    """A random legal policy's actions, with refusals and repeated (so illegal) actions mixed in."""
    draw = Random(f"{task}{split}{seed}")
    episode = registry.get(name).begin(task, seed, split)
    played: list[Action | Refusal] = []
    while not episode.done:
        action: Action | Refusal = draw.choice(episode.legal_actions())
        if draw.random() < 0.15:
            action = draw.choice(REFUSALS)
        elif played and draw.random() < 0.15:
            action = draw.choice(played)
        played.append(action)
        episode.step(action)
    return played


def here(name: str, task: str, split: Any, seed: int, played: list[Any]) -> list[bytes]:
    episode = registry.get(name).begin(task, seed, split)
    seen = [canonical(episode.observe().to_json())]
    seen += [canonical(episode.step(action).to_json()) for action in played]
    return [*seen, canonical([episode.score(), dict(episode.outcome()), episode.state()])]


def by_socket(link: Connection, task: str, split: Any, seed: int, played: list[Any]) -> list[bytes]:
    episode = link.begin(task, seed, split)
    seen = [canonical(episode.observe().to_json())]
    seen += [canonical(episode.step(action).to_json()) for action in played]
    return [*seen, canonical([episode.score(), dict(episode.outcome()), episode.state()])]


def by_http(http: httpx.Client, task: str, split: Any, seed: int, played: list[Any]) -> list[bytes]:
    begun = http.post("reset", json={"task_id": task, "seed": seed, "split": split}).json()
    seen, last = [canonical(begun["observation"])], begun
    for action in played:
        refused = isinstance(action, Refusal)
        sent = {"refusal": action.to_json()} if refused else action.to_json()
        header = {"X-Session-Id": begun["session_id"]}
        last = http.post("step", json={"action": sent}, headers=header).json()
        seen.append(canonical({key: last[key] for key in STEP}))
    return [*seen, canonical([last["score"], last["outcome"], last["state"]])]


@pytest.mark.parametrize(("name", "task", "split"), CASES)
def test_every_door_gives_the_same_bytes(
    url: str, links: dict[str, Connection], name: str, task: str, split: str
) -> None:
    with httpx.Client(base_url=f"{url}/envs/{name}/") as http:
        for seed in (7, 2**40):
            played = moves(name, task, split, seed)
            expected = here(name, task, split, seed, played)
            assert by_socket(links[name], task, split, seed, played) == expected
            assert by_http(http, task, split, seed, played) == expected


@pytest.mark.parametrize("name", registry.names())
def test_attempts_of_a_group_share_one_case_and_nothing_else(
    links: dict[str, Connection], name: str
) -> None:
    first, second = links[name].begin_many([(None, 5, "train"), (None, 5, "train")])
    assert first.observe() == second.observe()
    first.step(REFUSALS[0])
    assert first.steps == 1 and second.steps == 0
    assert second.state()["step_count"] == 0
    first.drop()
    second.drop()
