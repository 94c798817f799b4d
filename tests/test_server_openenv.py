"""OpenEnv's successor package `openenv`, unmodified, against our server, from an environment of its own.

It installs under the same import name as openenv-core, so never beside it: make one with
`uv venv /tmp/openenv && uv pip install --python /tmp/openenv/bin/python 'openenv==0.10.*'` and set
ROUNDS_OPENENV_PYTHON to its interpreter. Nothing of it needs torch.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import ROOT, serving

from env_server import registry

PYTHON = os.environ.get("ROUNDS_OPENENV_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="ROUNDS_OPENENV_PYTHON names no interpreter that has openenv 0.10"
    ),
]

SCRIPT = """
import importlib.metadata, json, sys
from openenv.core.generic_client import GenericEnvClient

said = {"version": importlib.metadata.version("openenv"), "torch": "torch" in sys.modules, "played": {}}
with GenericEnvClient(base_url=sys.argv[1]).sync() as env:
    for task in sys.argv[2:]:
        result = env.reset(task_id=task, seed=5, split="validation")
        drugs = [m["drug_id"] for m in result.observation["current_medications"]]
        rewards = []
        for action in (
            {"action_type": "query_ddi", "drug_id_1": drugs[0], "drug_id_2": drugs[1]},
            {"action_type": "nonsense"},
            {"action_type": "finish_review"},
        ):
            result = env.step(action)
            rewards.append(result.reward)
        said["played"][task] = [rewards, result.done, result.observation["score"], env.state()]
print(json.dumps(said))
"""


def run(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


def test_its_client_plays_what_is_played_here(url: str) -> None:
    family = registry.get("polypharmacy")
    said = json.loads(run(PYTHON, "-c", SCRIPT, url, *family.tasks).stdout.splitlines()[-1])
    assert said["version"].startswith("0.10") and not said["torch"]
    assert set(said["played"]) == set(family.tasks)
    for task, seen in said["played"].items():
        local = family.begin(task, 5, "validation")
        drugs = [m["drug_id"] for m in local.observe().to_json()["current_medications"]]
        query = {"action_type": "query_ddi", "drug_id_1": drugs[0], "drug_id_2": drugs[1]}
        moves = (query, {"action_type": "nonsense"}, {"action_type": "finish_review"})
        rewards = [local.step(family.action_from_json(m)).reward for m in moves]
        assert seen == [rewards, True, local.score(), local.state()]


def test_its_validator_passes_the_running_server(url: str, tmp_path: Path) -> None:
    report = validated("--url", url, "--output", str(tmp_path / "report.json"))
    assert report["passed"]
    assert report["summary"]["passed_count"] == report["summary"]["total_count"] == 6


def test_its_validator_finds_nothing_wrong_with_the_folder(tmp_path: Path) -> None:
    """In a copy of what git holds: it gives up where a file changes meanwhile."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    copy = tmp_path / "rounds"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():  # git may still hold what was just deleted
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    report = validated(".", "--output", str(tmp_path / "report.json"), folder=copy)
    statuses = {check["check_id"]: check["status"] for check in report["results"]}
    assert statuses["static.manifest"] == "pass"
    assert set(statuses.values()) <= {"pass", "skip"}  # most graders are not in this build


def validated(*flags: str, folder: Path = ROOT) -> Any:
    run(str(Path(PYTHON).with_name("openenv")), "validate", *flags, folder=folder)
    return json.loads(Path(flags[-1]).read_text("utf-8"))
