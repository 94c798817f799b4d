"""Episodes in the terminal: the right ones, with what else could have been done, and safe to pipe."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import AGENTS, ASK, FINISH, LEFT, NumberLine, Script
from rich.console import Console

from env_server import registry
from env_server.contract import AgentCard, Refusal, canonical
from eval import trace
from eval.compare import compare
from eval.counterfactual import AnotherWorld, choices
from eval.episode import play
from eval.record import read_episodes
from eval.trace import NoSuchEpisode, chosen, show
from eval.trajectory import Trajectory

LINE = NumberLine()
REFERENCE = LINE.agents["reference"]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    compare(LINE, ["near", "far"], ["random", "heuristic"], episodes=6, run=tmp_path / "r")
    return tmp_path / "r" / "episodes.jsonl"


def played(*script: object) -> Trajectory:
    card = AgentCard("scripted", "canary", lambda e: Script([*script, FINISH]), "")  # type: ignore[list-item]
    return play(LINE, "near", 3, "test", card)


def printed(recorded: Trajectory, policy: AgentCard | None = None, most: int | None = 8) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    show(recorded, console, policy, most, LINE)
    console.file.close()
    return console.export_text(styles=True)


# -- what else could have been done --------------------------------------------------------------


def test_every_legal_action_of_every_turn_is_tried_once_and_the_one_taken_is_marked():
    for found in choices(play(LINE, "near", 3, "test", AGENTS[1]), LINE):
        assert len(found) == len({canonical(c.action) for c in found}) >= 3
        assert sum(c.taken for c in found) == 1


def test_what_an_action_would_have_paid_is_what_it_pays_when_taken():
    recorded = play(LINE, "near", 3, "test", AGENTS[1])
    for turn, found in zip(recorded.turns, choices(recorded, LINE), strict=True):
        assert [c.reward for c in found if c.taken] == [turn.reward]


def test_to_go_is_the_return_if_the_reference_goes_on():
    recorded = play(LINE, "near", 3, "test", AGENTS[1])
    best = play(LINE, "near", 3, "test", REFERENCE).episode_return
    first = next(choices(recorded, LINE, REFERENCE))
    assert first[0].to_go == pytest.approx(best)
    assert [c.to_go for c in first] == sorted((c.to_go for c in first), reverse=True)  # type: ignore[type-var]


def test_a_refused_answer_marks_no_action_and_changes_nothing_after_it():
    first, second, *_ = choices(played(Refusal("malformed", "hm"), ASK), LINE)
    assert not any(c.taken for c in first)
    assert [c.action for c in first] == [c.action for c in second]


def test_an_episode_of_another_version_is_named_not_explained():
    recorded = played(ASK)
    turns = (replace(recorded.turns[0], reward=0.7), *recorded.turns[1:])
    with pytest.raises(AnotherWorld, match=r"turn 1 paid \+0.7000"):
        list(choices(replace(recorded, turns=turns), LINE))


# -- which episodes ------------------------------------------------------------------------------


def test_worst_means_most_regret_hardest_first(episodes: Path):
    every = sorted((t.outcome["regret"] for t in read_episodes(episodes)), reverse=True)
    found = chosen(episodes, 4, None, None, None)
    assert [t.outcome["regret"] for t in found] == every[:4]


def test_an_episode_is_found_by_seed_or_by_name(episodes: Path):
    assert len(chosen(episodes, None, None, None, "3")) == 4
    (one,) = chosen(episodes, None, "random", None, "far-test-3")
    assert (one.agent, one.task, one.seed) == ("random", "far", 3)


@pytest.mark.parametrize(
    ("agent", "task", "episode", "said"),
    [
        ("randon", None, None, "random"),
        (None, "nera", None, "near"),
        (None, None, "77", "TASK-SPLIT-SEED"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    episodes: Path, agent: str | None, task: str | None, episode: str | None, said: str
):
    with pytest.raises(NoSuchEpisode, match=said):
        chosen(episodes, 3, agent, task, episode)


# -- how it looks --------------------------------------------------------------------------------


def test_turns_show_what_was_done_what_it_brought_and_what_else_there_was():
    text = printed(played(ASK, LEFT), REFERENCE, None)
    assert text.count("turn ") >= 3
    assert 'did:  {"action_type":"ask_side"}   -0.0200 (query -0.0200)' in text
    assert "▶" in text and "to the end" in text
    assert "return " in text and "refused" in text


def test_only_the_best_and_the_one_taken_are_shown_and_the_rest_counted():
    text = printed(played(ASK), None, 1)
    assert "more; --all shows them" in text


def test_words_of_a_model_cannot_move_the_cursor():
    recorded = played(ASK)
    bad = replace(recorded.turns[0], text="\x1b[2J\x1b]0;owned\x07[red]x[/red]\r")
    text = printed(replace(recorded, turns=(bad, *recorded.turns[1:])))
    assert "\x1b[2J" not in text and "\x07" not in text
    assert "␛[2J" in text and "[red]x[/red]" in text


def test_the_command_shows_a_run_and_names_what_is_missing(
    episodes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(registry, "get", lambda name: LINE)
    assert trace.main([str(episodes.parent), "--worst", "2", "--to-go"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(" · test seed ") == 2
    assert not [line for line in shown.splitlines() if "\x1b" in line]
    assert trace.main([str(episodes), "--policy", "referense"]) == 2
    assert "reference" in capsys.readouterr().err
    assert trace.main([str(episodes.with_name("none.jsonl"))]) == 2
    said = capsys.readouterr().err
    assert "none.jsonl is no episodes.jsonl" in said and "--run NAME" in said
    with pytest.raises(SystemExit):
        trace.main([str(episodes), "--worst", "0"])
    assert "'0' is not a whole number of 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_leaves_the_pipe_is_no_error(tmp_path: Path):
    compare("polypharmacy", ["review_easy"], ["random"], episodes=3, run=tmp_path / "r")
    command = f"{sys.executable} -m eval.trace {tmp_path / 'r'} --all | head -3"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr == ""
