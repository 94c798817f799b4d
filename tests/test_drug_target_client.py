"""The published client's surface on our server, and what the server hides unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import serving_here

from env_server import app as server
from env_server import registry
from env_server.clients import DrugTargetEnv, NotReset
from env_server.contract import BadOption, EpisodeOver, EpisodeRunning
from env_server.envs.drug_target import latent, wire
from env_server.envs.drug_target.wire import DrugTargetAction
from env_server.guard import Keeper

FAMILY: Any = registry.get("drug_target")
LATENT = "/envs/drug_target/debug/latent"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_here(server.create_app("drug_target"), ws_max_size=2**20) as url:
        yield url


@pytest.fixture
def env(url: str) -> Iterator[DrugTargetEnv]:
    with DrugTargetEnv(base_url=url) as env:
        yield env


def test_the_published_example_runs_as_it_stands(env: DrugTargetEnv) -> None:
    result = env.reset()
    assert result.observation.target_gene and result.observation.indication
    result = env.step(
        DrugTargetAction(
            action_type="query_expression",
            parameters={"database": "GTEx"},
            reasoning="Establish tissue baseline",
        )
    )
    assert result.observation.latest_output is not None
    assert result.observation.latest_output.summary
    result = env.step(
        DrugTargetAction(
            action_type="submit_validation_report",
            reasoning="Sufficient evidence for go",
            final_decision="go",
            confidence=0.85,
        )
    )
    assert result.done and result.reward == pytest.approx(env.score(), abs=0.5)
    told = result.observation.outcome
    assert told is not None
    assert wire.FullLatentState.model_validate(told["latent_state"]).progress.report_submitted


def test_a_typed_game_is_the_game_played_here(env: DrugTargetEnv) -> None:
    here = FAMILY.begin("target_hard", 5, "test")
    result = env.reset(5, "target_hard", "test")
    player = FAMILY.agents["reference"].make(here)
    while not here.done:
        assert result.observation == wire.ValidationObservation.model_validate(
            here.observe().to_json()
        )
        action = player.act(here.observe(), here.legal_actions)
        expected, result = here.step(action), env.step(DrugTargetAction(**action.to_json()))
        assert (result.reward, result.done) == (expected.reward, expected.done)
    assert env.score() == here.score()
    assert env.state() == wire.DrugTargetState.model_validate(here.state())


def test_options_are_keywords_of_reset(env: DrugTargetEnv) -> None:
    shown = env.reset(scenario="cd33_aml_misleading", anonymise=True, budget=12).observation
    assert shown.credits_total == 12 and shown.target_gene.startswith("T-")
    assert env.reset(difficulty="very_hard").observation.credits_total == 26
    with pytest.raises(BadOption, match="kappa must be a number from 0 to 1"):
        env.reset(kappa=2)


def test_what_cannot_be_done_is_a_refusal_in_the_result(env: DrugTargetEnv) -> None:
    env.reset()
    result = env.step(DrugTargetAction(action_type="in_vivo_model"))
    assert result.refusal is not None and result.refusal.kind == "illegal"
    assert env.step({"action_type": "teleport"}).refusal is not None


def test_verbs_out_of_turn_say_so(env: DrugTargetEnv) -> None:
    with pytest.raises(NotReset, match=r"reset\(\) begins one"):
        env.step({"action_type": "crispr_knockout"})
    env.reset()
    with pytest.raises(EpisodeRunning):
        env.score()
    env.step({"action_type": "submit_validation_report"})
    with pytest.raises(EpisodeOver):
        env.step({"action_type": "crispr_knockout"})


@pytest.mark.parametrize(
    "name", ["TargetProfile", "DataQualityState", "CreditState", "ValidationProgress"]
)
def test_the_models_of_the_hidden_state_have_the_fields_it_has(name: str) -> None:
    assert list(getattr(wire, name).model_fields) == list(getattr(latent, name).__slots__)


def test_the_wire_has_every_published_name() -> None:
    for name in [
        "DrugTargetAction",
        "ValidationObservation",
        "EvidenceDossier",
        "IntermediateOutput",
        "TargetProfile",
        "DataQualityState",
        "CreditState",
        "ValidationProgress",
        "FullLatentState",
        "DrugTargetState",
    ]:
        assert issubclass(getattr(wire, name), wire.BaseModel)


# -- /debug/latent ----------------------------------------------------------------------------


def test_what_episodes_hide_has_no_door_by_default(url: str) -> None:
    httpx.post(f"{url}/reset", json={})
    for path in ("/debug/latent", LATENT):
        assert httpx.get(f"{url}{path}").status_code == 404
    assert "debug" not in httpx.get(f"{url}/openapi.json").text


def opened(keeper: Keeper) -> Any:
    return server.create_app("drug_target", keeper=keeper, debug_latent=True)


def test_a_server_told_so_tells_the_hidden_state_and_the_posterior() -> None:
    with serving_here(opened(Keeper(local=True))) as url, httpx.Client(base_url=url) as http:
        assert http.get(LATENT).status_code == 404  # no session yet
        http.post("/reset", json={"seed": 3, "split": "validation"})
        first = wire.LatentReport.model_validate(http.get(LATENT).json())
        assert first.belief.p_go == pytest.approx(0.5)
        bought = {"action_type": "in_vitro_assay", "assay": "cell_viability"}
        shown = http.post("/step", json={"action": bought}).json()
        second = wire.LatentReport.model_validate(http.get(LATENT).json())
        case = FAMILY.begin(None, 3, "validation").case
        assert second.latent_state.target.correct_decision == case.decision
        assert second.latent_state.credits.credits_used == 5
        assert second.belief.p_go != first.belief.p_go
        assert sum(second.belief.marginals["tox"]) == pytest.approx(1)
        again = FAMILY.begin(None, 3, "validation")  # looking changes nothing
        assert again.step(FAMILY.action_from_json(bought)).reward == shown["reward"]
        untold = http.post("/envs/polypharmacy/reset", json={})
        assert untold.status_code == 200
        refused = http.get("/envs/polypharmacy/debug/latent")
        assert refused.status_code == 503 and "no latent state" in refused.json()["detail"]


def test_the_door_is_the_keepers_alone() -> None:
    with serving_here(opened(Keeper(token="s3cret"))) as url, httpx.Client(base_url=url) as http:
        http.post("/reset", json={})
        assert http.get(LATENT).status_code == 401
        said = {"Authorization": "Bearer s3cret"}
        assert http.get(LATENT, headers=said).status_code == 200
    with serving_here(opened(Keeper())) as url, httpx.Client(base_url=url) as http:
        http.post("/reset", json={})
        assert http.get(LATENT).status_code == 403
