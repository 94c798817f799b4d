"""Episodes in the Hub's session-trace form: every line as its page says, every session whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import ASK, NumberLine, Script

from env_server import registry
from env_server.contract import AgentCard, Refusal, canonical
from eval import record, session_traces
from eval.compare import compare
from eval.compare import main as compare_command
from eval.episode import play
from eval.finished import NotFinished
from eval.record import read_episodes
from eval.session_traces import file_name, session, session_id, write

LINE = NumberLine()
HEADER = {"type", "harness", "id"}
ROLES = {"user", "assistant", "system", "tool"}


def wrong(lines: list[dict[str, Any]]) -> list[str]:
    """What of one session is not as the Session Trace Simple Format asks."""
    found = [] if lines[0].keys() >= HEADER and lines[0]["type"] == "session" else ["header"]
    calls: set[str] = set()
    for line in lines[1:]:
        message = line["message"]
        if line["type"] != "message" or message["role"] not in ROLES:
            found.append(f"envelope {line}")
        if not isinstance(message["content"], str):
            found.append(f"content {line}")
        for call in message.get("toolCalls", ()):
            calls.add(call["id"])
            if not isinstance(json.loads(call["function"]["arguments"]), dict):
                found.append(f"arguments {line}")
        if message["role"] == "tool" and message["toolCallId"] not in calls:
            found.append(f"a result without a call {line}")
    return found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    compare(LINE, ["near", "far"], ["random", "heuristic"], episodes=5, run=tmp_path / "r")
    monkeypatch.setattr(registry, "get", lambda name: LINE)
    return tmp_path / "r"


def sessions(path: Path) -> list[list[dict[str, Any]]]:
    """The sessions of a file: each begins with its header."""
    found: list[list[dict[str, Any]]] = []
    for line in path.read_text("utf-8").splitlines():
        body = json.loads(line)
        if body["type"] == "session":
            found.append([])
        found[-1].append(body)
    return found


def test_every_session_is_as_the_format_asks(run: Path):
    path, count = write(run)
    found = sessions(path)
    assert len(found) == count == 20
    assert [problem for lines in found for problem in wrong(lines)] == []
    assert len({lines[0]["id"] for lines in found}) == 20


def test_each_file_of_the_folder_is_one_session_of_the_whole(run: Path):
    path, _ = write(run, files=2)
    files = sorted((run / "traces").iterdir())
    assert len(files) == 2 * 2 * 2
    together = sessions(path)
    assert all([lines] == sessions(f) for f in files for lines in sessions(f) if lines in together)
    assert all(len(sessions(f)) == 1 for f in files)


def test_a_polypharmacy_session_tells_the_whole_review():
    family = registry.get("polypharmacy")
    played = play(family, "review_easy", 3, "test", family.agents["heuristic"])
    lines = session(played)
    assert wrong(lines) == []
    said = [line["message"] for line in lines[1:]]
    assert [m["role"] for m in said[:2]] == ["system", "user"]
    assert said[-1]["role"] == "tool" and "reward" in said[-1]["content"]
    calls = [m["toolCalls"][0]["function"] for m in said if m["role"] == "assistant"]
    assert [c["name"] for c in calls] == [t.action["action_type"] for t in played.turns if t.action]
    assert json.loads(calls[-1]["arguments"]) == {}


def test_an_answer_that_could_not_be_read_is_words_without_a_call():
    card = AgentCard(
        "clumsy", "canary", lambda e: Script([Refusal("malformed", "hm"), ASK] * 6), ""
    )
    played = play(LINE, "near", 3, "test", card)
    turns = (replace(played.turns[0], text="I would wait."), *played.turns[1:])
    lines = session(replace(played, turns=turns), LINE)
    assert wrong(lines) == []
    answer, reply = lines[3]["message"], lines[4]["message"]
    assert answer == {"role": "assistant", "content": "I would wait.", "model": "clumsy"}
    assert reply["role"] == "user" and "refused, malformed" in reply["content"]


def test_a_lost_episode_is_no_session(run: Path):
    lost = [replace(t, lost="socket closed") for t in read_episodes(run / "episodes.jsonl")]
    body = b"".join(canonical(t.to_json()) + b"\n" for t in lost)
    (run / "episodes.jsonl").write_bytes(body)
    assert write(run)[1] == 0


def test_a_label_with_a_path_in_it_stays_in_its_folder(run: Path):
    played = next(read_episodes(run / "episodes.jsonl"))
    bad = replace(played, agent="../../etc/x y:z")
    assert "/" not in file_name(bad) and not file_name(bad).startswith(".")
    assert "../../etc/x y:z" in session_id(bad)


def test_the_command_writes_the_agents_asked_for(run: Path, capsys: pytest.CaptureFixture[str]):
    assert session_traces.main([str(run), "--agents", "random"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "traces.jsonl")
    assert {lines[0]["agent"] for lines in sessions(run / "traces.jsonl")} == {"random"}
    kept = (run / "traces.jsonl").read_bytes()
    assert session_traces.main([str(run), "--agents", "randon"]) == 2
    assert "did you mean 'random'" in capsys.readouterr().err
    assert (run / "traces.jsonl").read_bytes() == kept
    with pytest.raises(NotFinished):
        write(run / "none")
    assert session_traces.main([str(run / "none")]) == 2


def test_the_table_leaves_traces_and_a_report_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(record, "RUNS", tmp_path)
    flags = ["--tasks", "review_easy", "--agents", "random", "heuristic", "--episodes", "3"]
    assert compare_command([*flags, "--run", "r", "--traces", "--report", "--json"]) == 0
    assert len(sessions(tmp_path / "r" / "traces.jsonl")) == 6
    page = (tmp_path / "r" / "report.html").read_text("utf-8")
    assert "--traces --report --json" in page
    with pytest.raises(SystemExit):
        compare_command([*flags, "--traces"])
    assert "--traces needs --run NAME" in capsys.readouterr().err
