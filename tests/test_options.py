"""What may be chosen of an episode beyond task, seed and split means the same at every door."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import serving

from env_server import contract, registry, wire
from env_server.client import Connection, connect
from env_server.contract import BadOption, Option, canonical

# one value an option takes, for every option of every family: a new option is tried by being there
TRIED = {
    (name, key): option.words[-1]
    if option.words
    else {"flag": True, "whole": 20, "number": option.most}[option.kind]
    for name in registry.names()
    for key, option in contract.options_of(registry.get(name)).items()
}
RESERVED = {*wire.RESET_FIELDS, "session_id", "snapshot", "action", "actions", "steps", "done"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def links(url: str) -> Iterator[dict[str, Connection]]:
    opened = {name: connect(url, name, pool=4) for name in registry.names()}
    yield opened
    for link in opened.values():
        link.close()


def seen(episode: Any) -> bytes:
    return canonical(episode.observe().to_json())


def here(name: str, options: dict[str, Any]) -> Any:
    return contract.begin(registry.get(name), None, 7, "validation", options)


@pytest.mark.parametrize(("name", "key"), TRIED)
def test_an_option_changes_the_episode_and_every_door_alike(
    url: str, links: dict[str, Connection], name: str, key: str
) -> None:
    options = {key: TRIED[name, key]}
    expected = seen(here(name, options))
    assert expected != seen(here(name, {}))
    with httpx.Client(base_url=f"{url}/envs/{name}/") as http:
        asked = {"seed": 7, "split": "validation", **options}
        begun = http.post("reset", json=asked).json()
        assert canonical(begun["observation"]) == expected and begun["options"] == options
        created = http.post("v1/sessions", json=asked).json()
        assert canonical(created["observation"]) == expected
    with_socket = links[name].begin(None, 7, "validation", **options)
    assert seen(with_socket) == expected
    with_socket.drop()


@pytest.mark.parametrize(("name", "key"), TRIED)
def test_an_episode_played_again_keeps_its_options(
    links: dict[str, Connection], name: str, key: str
) -> None:
    episode = links[name].begin(None, 7, "validation", **{key: TRIED[name, key]})
    episode.step(here(name, {key: TRIED[name, key]}).legal_actions()[0])
    before = seen(episode)
    episode.drop()
    episode.replay()
    assert seen(episode) == before
    episode.drop()


@pytest.mark.parametrize(("name", "key"), TRIED)
def test_a_snapshot_keeps_its_options(url: str, name: str, key: str) -> None:
    with httpx.Client(base_url=f"{url}/envs/{name}/v1/") as http:
        asked = {"seed": 7, "split": "validation", key: TRIED[name, key]}
        one = http.post("sessions", json=asked).json()
        kept = http.get(f"sessions/{one['session_id']}/snapshot").json()
        other = http.post("sessions", json={"snapshot": kept}).json()
        assert other["observation"] == one["observation"] and other["options"] == one["options"]


@pytest.mark.parametrize(("name", "key"), TRIED)
def test_the_reset_of_an_option_is_described(url: str, name: str, key: str) -> None:
    told = httpx.get(f"{url}/openapi.json").json()["paths"][f"/envs/{name}/reset"]["post"]
    schema = told["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"][key]["description"]
    assert key in httpx.get(f"{url}/envs/{name}/metadata").json()["options"]


@pytest.mark.parametrize("name", registry.names())
def test_options_are_told_apart_from_the_words_of_the_protocol(name: str) -> None:
    assert not RESERVED & set(contract.options_of(registry.get(name)))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kapa": 0.5}, "kappa"),
        ({"kappa": 1.5}, "kappa must be a number from 0 to 1, not '1.5'"),
        ({"budget": 0}, "budget must be a whole number from 1 to 1000, not '0'"),
        ({"budget": 20.5}, "whole number"),
        ({"budget": True}, "whole number"),
        ({"anonymise": "yes"}, "anonymise must be true or false, not 'yes'"),
        ({"scenario": "cd33_aml_mislead"}, "did you mean 'cd33_aml_misleading'"),
        ({"rubric": 3}, "rubric must be one of proper_dense"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(
    url: str, links: dict[str, Connection], asked: dict[str, Any], said: str
) -> None:
    reply = httpx.post(f"{url}/envs/drug_target/reset", json=asked)
    assert reply.status_code == 422 and said in reply.json()["detail"]
    if "kapa" not in asked:
        with pytest.raises(BadOption, match=next(iter(asked))):
            links["drug_target"].begin(**asked)
        with pytest.raises(BadOption):
            here("drug_target", asked)


def test_a_null_option_is_left_to_the_case(links: dict[str, Connection]) -> None:
    episode = links["drug_target"].begin(None, 7, "validation", kappa=None)
    assert seen(episode) == seen(here("drug_target", {})) and episode.options == {}
    episode.drop()


def test_a_family_without_options_refuses_them_by_name() -> None:
    with pytest.raises(BadOption, match="polypharmacy has no options; leave 'kappa' out"):
        contract.begin(registry.get("polypharmacy"), options={"kappa": 0.5})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (Option("number", "", least=0), float("nan")),
        (Option("number", "", most=1), 2),
        (Option("whole", ""), "3"),
        (Option("flag", ""), 1),
        (Option("word", "", ("a", "b")), "c"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(option: Option, value: object) -> None:
    with pytest.raises(BadOption, match="thing"):
        option.read("thing", value)
