"""OpenEnv's own programs, unmodified, against our server; and our environments inside OpenEnv's.

Everything of openenv runs in a process of its own: importing it takes seconds and 200 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, get_args

import pytest
from servers import ROOT, serving

from env_server import registry
from env_server.envs.polypharmacy import wire
from env_server.envs.polypharmacy.observation import ReviewObservation
from env_server.envs.polypharmacy.tasks import REVIEWS

# one process, one import: the stock client and the stock validator against our server, our
# environment inside OpenEnv's server, and what our types extend
SCRIPT = """
import json, socket, sys, threading, time
import uvicorn
from openenv.cli.__main__ import app as command
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.types import Action, Observation, State
from openenv.core.generic_client import GenericEnvClient
from typer.testing import CliRunner
from env_server import adapter
from env_server.client import ServerError, connect
from env_server.play import NoEpisode

url, tasks = sys.argv[1], sys.argv[2:]
said = {"played": {}}
with GenericEnvClient(base_url=url).sync() as env:
    for task in tasks:
        result = env.reset(task_id=task, seed=5, split="validation")
        drugs = [m["drug_id"] for m in result.observation["current_medications"]]
        rewards = []
        for action in (
            {"action_type": "query_ddi", "drug_id_1": drugs[0], "drug_id_2": drugs[1]},
            {"action_type": "propose_intervention", "target_drug_id": drugs[0],
             "intervention_type": "stop", "metadata": {}},
            {"action_type": "finish_review", "drug_id_1": None},
        ):
            result = env.step(action)
            rewards.append(result.reward)
        state = env.state()
        said["played"][task] = [rewards, result.done, result.observation["score"], state]

checked = CliRunner().invoke(command, ["validate", "--url", url])
said["validated"] = [checked.exit_code, json.loads(checked.stdout)]

models = [adapter.action_model, adapter.observation_model, adapter.state_model]
action, observation, state = [model("polypharmacy") for model in models]
said["extends"] = [issubclass(action, Action), issubclass(observation, Observation),
                   issubclass(state, State), observation.__name__]

try:
    adapter.RoundsEnvironment().step(action(action_type="finish_review"))
except NoEpisode as error:
    said["early"] = str(error)

app = create_app(adapter.RoundsEnvironment, action, observation, max_concurrent_envs=4)
app.mount("/envs/polypharmacy", app)  # where our own client looks for a family
listener = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
while not server.started:
    time.sleep(0.01)
with GenericEnvClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}").sync() as env:
    begun = env.reset(task_id="review_easy", seed=5).observation
    step = env.step({"action_type": "finish_review"})
    said["inside"] = [begun, step.reward, step.done, step.observation, env.state()]
try:
    connect(f"http://127.0.0.1:{listener.getsockname()[1]}", "polypharmacy").close()
except ServerError as error:
    said["ours"] = str(error)
server.should_exit = True
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said() -> Any:
    """What OpenEnv's programs saw, from one process of their own."""
    with serving() as url:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url, *REVIEWS],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_stock_client_plays_every_task(said: Any) -> None:
    family = registry.get("polypharmacy")
    assert set(said["played"]) == set(family.tasks)
    for task, (rewards, done, score, state) in said["played"].items():
        local = family.begin(task, 5, "validation")
        drugs = [m["drug_id"] for m in local.observe().to_json()["current_medications"]]
        expected = [
            local.step(family.action_from_json(action)).reward  # type: ignore[arg-type]
            for action in (
                {"action_type": "query_ddi", "drug_id_1": drugs[0], "drug_id_2": drugs[1]},
                {
                    "action_type": "propose_intervention",
                    "target_drug_id": drugs[0],
                    "intervention_type": "stop",
                },
                {"action_type": "finish_review"},
            )
        ]
        assert rewards == expected and done and score == local.score() and state == local.state()


@pytest.mark.slow
def test_the_validator_passes_every_check(said: Any) -> None:
    code, report = said["validated"]
    assert code == 0 and report["passed"]
    assert report["summary"]["passed_count"] == report["summary"]["total_count"] == 6


@pytest.mark.slow
def test_openenvs_own_server_serves_our_environment(said: Any) -> None:
    begun, reward, done, last, state = said["inside"]
    local = registry.get("polypharmacy").begin("review_easy", 5)
    shown = {k: v for k, v in local.observe().to_json().items() if k not in ("done", "reward")}
    assert begun == shown
    step = local.step(
        registry.get("polypharmacy").action_from_json({"action_type": "finish_review"})
    )  # type: ignore[arg-type]
    assert (reward, done, last["score"]) == (step.reward, True, local.score())
    assert state == local.state()


@pytest.mark.slow
def test_a_step_before_any_reset_is_told_what_begins_an_episode(said: Any) -> None:
    assert said["early"] == "no episode yet; reset begins one"


@pytest.mark.slow
def test_our_client_says_at_once_that_openenvs_own_server_is_not_for_it(said: Any) -> None:
    assert "does not number its replies" in said["ours"] and "OpenEnv" in said["ours"]


@pytest.mark.slow
def test_wire_types_extend_openenvs(said: Any) -> None:
    assert said["extends"] == [True, True, True, "PolypharmacyObservation"]


@pytest.mark.parametrize("task", REVIEWS)
def test_the_observation_model_describes_what_is_sent(task: str) -> None:
    family = registry.get("polypharmacy")
    episode = family.begin(task, 1)
    while not episode.done:
        sent = episode.step(episode.legal_actions()[-1 if episode.steps > 4 else 0]).observation
        assert isinstance(sent, ReviewObservation)
        body = sent.to_json()
        assert wire.PolypharmacyObservation.model_validate(body).model_dump() == body


def test_the_wire_names_every_task() -> None:
    assert set(get_args(wire.TaskId)) == set(REVIEWS)


def test_the_published_fields_are_all_there() -> None:
    published = {
        wire.MedicationEntry: "drug_id generic_name atc_class dose_mg frequency route "
        "is_high_risk_elderly beers_flags",
        wire.InteractionQueryRecord: "drug_id_1 drug_id_2 severity recommendation risk_score "
        "step_index",
        wire.InterventionRecord: "target_drug_id action_type proposed_new_drug_id rationale "
        "step_index",
        wire.PolypharmacyObservation: "episode_id task_id age sex conditions eGFR_category "
        "liver_function_category current_medications interaction_queries interventions step_index "
        "remaining_query_budget remaining_intervention_budget shaped_reward done",
        wire.PolypharmacyAction: "action_type drug_id_1 drug_id_2 target_drug_id "
        "intervention_type proposed_new_drug_id rationale",
        wire.PolypharmacyState: "episode_id task_id step_count max_steps num_query_actions "
        "num_interventions",
    }
    for model, fields in published.items():
        assert set(fields.split()) <= set(model.model_fields), model
