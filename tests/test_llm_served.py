"""A model trained here, behind a real OpenAI-compatible server, plays as it plays without one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from env_server import registry
from eval.record import read_episodes
from eval.replay import replay
from eval.roster import NotReady, Options, find
from eval.trajectory import Trajectory
from eval.transcript import main as transcript

FAMILY = registry.get("polypharmacy")
TASK = "easy_screening"
SERVE = Path(sys.executable).with_name("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # training and a server's start on a busy machine
    pytest.mark.skipif(not SERVE.exists(), reason="`transformers serve` is not installed"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few optimizer steps: enough to write actions, some of them refused."""
    from training import sft, tiny

    folder = tmp_path_factory.mktemp("served")
    start = tiny.build(folder / "init", "polypharmacy", (TASK,))
    config = sft.SftConfig(
        output=str(folder / "sft"),
        tasks=(TASK,),
        init=str(start),
        style="brief",
        episodes=120,
        steps=70,
        batch=8,
        warmup=10,
        device="cpu",
    )
    return sft.train(config)


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("hub")
    (home / "hub").mkdir()  # the server lists what lies there before it answers
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(SERVE), "serve", str(model), "--device", "cpu", "--host", "127.0.0.1"]
    log = home / "serve.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        _await(f"http://127.0.0.1:{port}/health", child, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.terminate()
        child.wait(20)


def _await(health: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and child.poll() is None:
        try:
            if httpx.get(health, timeout=5).status_code == 200:
                return
        except httpx.TransportError:  # not listening yet
            time.sleep(0.3)
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


def told(trajectory: Trajectory) -> list[tuple[object, object, float]]:
    return [(t.action, t.refusal and t.refusal["kind"], t.reward) for t in trajectory.turns]


def test_a_served_model_plays_as_the_same_model_does_without_a_server(
    model: Path, url: str
) -> None:
    served = find(f"llm:{model}@{url}?style=brief&answer_tokens=48&cache=false", FAMILY)
    local = find(f"local:{model}", FAMILY, Options(max_new_tokens=48))
    seeds = range(1000, 1003)
    by_seed = {t.seed: t for t in served.play(FAMILY, TASK, "validation", seeds)}
    for alone in local.play(FAMILY, TASK, "validation", seeds):
        there = by_seed[alone.seed]
        assert told(there) == told(alone)
        assert (there.score, there.lost) == (alone.score, None)
        assert there.usage is not None and alone.tokens is not None
        assert there.usage["completion_tokens"] == sum(alone.tokens.mask)
    assert any(turn.action for t in by_seed.values() for turn in t.turns)


def test_a_served_model_speaks_the_transcript_and_its_run_replays(
    model: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval.compare import compare

    agent = f"served=llm:{model}@{url}?style=brief&answer_tokens=48&cache=false"
    assert transcript(["--agent", agent, "--tasks", TASK, "--split", "validation"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"[START] task={TASK} env=polypharmacy model={model}"
    assert said[-1].startswith("[END] success=")
    run = tmp_path / "run"
    (row,) = compare(FAMILY, [TASK], [agent], episodes=2, split="validation", run=run)
    kept = list(read_episodes(run / "episodes.jsonl"))
    assert list(replay(run / "episodes.jsonl")) == [None, None]
    assert all(t.usage and t.usage["prompt_tokens"] for t in kept)
    assert row.n == 2 and row.score is not None


def test_a_model_that_this_server_does_not_have_is_named(url: str) -> None:
    from eval.llm import ModelDown

    player = find(f"llm:no/such@{url}?cache=false&attempts=2&backoff_s=0.01&breaker=1", FAMILY)
    with pytest.raises((ModelDown, NotReady), match="no/such"):
        list(player.play(FAMILY, TASK, "validation", [1000]))
