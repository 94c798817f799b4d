"""Recorded episodes, played again: the same bytes, or the first place that differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import AGENTS, LEFT, NumberLine, Script

from env_server import registry
from env_server.contract import AgentCard, Refusal, UnknownFamily, canonical
from eval import replay as command
from eval.compare import compare
from eval.episode import play
from eval.record import BadLine
from eval.replay import replay
from eval.trajectory import Trajectory

LINE = NumberLine()


def one(family: str) -> NumberLine:
    assert family == "number_line"
    return LINE


def written(path: Path, *trajectories: Trajectory) -> Path:
    path.write_bytes(b"".join(canonical(t.to_json()) + b"\n" for t in trajectories))
    return path


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    compare(LINE, ["near", "far"], episodes=4, run=tmp_path / "r")
    return tmp_path / "r" / "episodes.jsonl"


def changed(path: Path, edit: Any) -> Path:
    lines = path.read_text().splitlines()
    body = json.loads(lines[1])
    edit(body)
    lines[1] = json.dumps(body)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_recorded_episode_plays_again_to_the_same_bytes(recorded: Path):
    found = list(replay(recorded, one))
    assert len(found) == 36
    assert set(found) == {None}


def test_refused_and_illegal_answers_play_again_too(tmp_path: Path):
    said = [Refusal("malformed", "no action in 'hm'"), *[LEFT] * 12]
    card = AgentCard("clumsy", "canary", lambda e: Script(list(said)), "walks off the line")
    played = play(LINE, "near", 1, "test", card)
    assert played.refusals > 1
    assert list(replay(written(tmp_path / "e.jsonl", played), one)) == [None]


def test_words_tokens_and_time_are_the_players_and_taken_over(tmp_path: Path):
    played = play(LINE, "near", 1, "test", AGENTS[1])
    turns = (replace(played.turns[0], text="I ask."), *played.turns[1:])
    spoken = replace(played, turns=turns, seconds=123.0, agent="model")
    assert list(replay(written(tmp_path / "e.jsonl", spoken), one)) == [None]


def test_what_an_api_charged_is_taken_over_and_absent_from_everybody_elses_lines(tmp_path: Path):
    played = play(LINE, "near", 1, "test", AGENTS[1])
    assert "usage" not in played.to_json()
    billed = replace(played, usage={"requests": 3, "prompt_tokens": 900, "cost_usd": 0.01})
    assert Trajectory.from_json(json.loads(json.dumps(billed.to_json()))) == billed
    assert list(replay(written(tmp_path / "e.jsonl", billed, played), one)) == [None, None]


def test_a_lost_episode_is_checked_as_far_as_it_went(tmp_path: Path):
    played = play(LINE, "near", 1, "test", AGENTS[1])
    lost = replace(
        played, turns=played.turns[:1], final={}, score=0.0, outcome={}, lost="socket closed"
    )
    assert list(replay(written(tmp_path / "e.jsonl", lost), one)) == [None]


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        (lambda b: b["turns"][0]["observation"].update(place=99), "turn 1 · observation.place"),
        (lambda b: b["turns"][-1].update(reward=0.5), "reward"),
        (lambda b: b.update(score=0.123), "score"),
        (lambda b: b["outcome"].update(regret=7.0), "outcome.regret"),
        (lambda b: b["outcome"].update(more=1), "outcome.more"),
        (lambda b: b.update(version="0"), "version"),
        (lambda b: b["turns"].append(b["turns"][-1]), "the number of turns"),
        (lambda b: b["turns"].pop(), "the episode itself"),
    ],
)
def test_the_first_difference_is_named(recorded: Path, edit: Any, where: str):
    found = list(replay(changed(recorded, edit), one))
    assert found[0] is None and found[2] is None
    assert found[1] is not None
    assert found[1].line == 2
    assert where in found[1].where


def test_a_line_that_is_no_episode_is_named(tmp_path: Path):
    path = tmp_path / "e.jsonl"
    path.write_text('{"family": "number_line"}\n')
    with pytest.raises(BadLine, match="line 1"):
        list(replay(path, one))


def test_the_command_ends_with_0_with_1_at_a_difference_and_with_2_where_it_cannot_tell(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(UnknownFamily):
        list(replay(recorded))
    assert command.main([str(recorded)]) == 2
    monkeypatch.setattr(registry, "get", one)
    monkeypatch.setattr(command.replay, "__defaults__", (one,))
    assert command.main([str(recorded)]) == 0
    assert "36 episodes, every byte the same" in capsys.readouterr().out
    assert command.main([str(changed(recorded, lambda b: b.update(score=0.5)))]) == 1
    assert "line 2" in capsys.readouterr().out
    assert command.main([str(recorded.with_name("none.jsonl"))]) == 2
    assert "none.jsonl is no episodes.jsonl" in capsys.readouterr().err


def test_a_run_is_replayed_by_its_folder_or_by_its_name_in_runs(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(registry, "get", one)
    monkeypatch.setattr(command.replay, "__defaults__", (one,))
    run = recorded.parent / "mine"
    run.mkdir()
    (run / "episodes.jsonl").write_bytes(recorded.read_bytes())
    monkeypatch.setattr("eval.record.RUNS", recorded.parent)
    assert command.main([str(run)]) == command.main(["mine"]) == 0
    assert command.main(["mien"]) == 2
    assert "has mine" in capsys.readouterr().err


def test_an_episode_with_options_of_its_own_plays_again_to_the_same_bytes(tmp_path: Path):
    family = registry.get("drug_target")
    chosen = {"scenario": "kras_pdac_borderline", "kappa": 0.9, "budget": 20}
    card = family.agents["heuristic"]
    played = play(family, "target_medium", 3, "validation", card, chosen)
    plain = play(family, "target_medium", 3, "validation", card)
    path = written(tmp_path / "e.jsonl", played, plain)
    assert list(replay(path)) == [None, None]
    first, second = path.read_text("utf-8").splitlines()
    assert json.loads(first)["options"] == chosen and "options" not in json.loads(second)
    forgotten = written(tmp_path / "f.jsonl", replace(played, options={}))
    assert list(replay(forgotten)) != [None]
