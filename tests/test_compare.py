"""The table: same patients for all, honest rows for whoever cannot play, runs that resume."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NumberLine, Script
from rich.console import Console

from env_server import registry
from env_server.contract import (
    AgentCard,
    BadSplit,
    Episode,
    Refusal,
    RoundsError,
    UnknownAgent,
    UnknownTask,
)
from eval import compare as command
from eval import roster, table
from eval.compare import compare
from eval.engine import NoEngine, Unplayed, engine
from eval.episode import NeverEnded, play, take_turn
from eval.heldout import Patients, TrainedOnTest, UnreadableSeeds, refuse_overlap, trained_on
from eval.language import model_folder
from eval.record import BadLine, RunDiffers, RunExists, read_episodes
from eval.replay import replay
from eval.result import Result, result
from eval.roster import BadOption, CardPlayer, NotReady, Options, SameName, find
from eval.rows import Played, Row
from eval.rows import rows as rows_of
from eval.trajectory import Trajectory

LINE = NumberLine()
LEARNED = roster.learned
PROMISED = {
    "family", "task", "agent", "split", "n", "score", "score_low", "score_high", "return",
    "regret", "steps", "refusal_share", "seconds", "diff", "diff_low", "diff_high", "p",
    "queries", "interventions", "overcall_share", "share_of_optimum", "note",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_learned_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is trained on this machine, or can be, is no business of most tests."""
    monkeypatch.setattr(roster, "learned", lambda family: [])


def by_agent(rows: list[Row], task: str = "near") -> dict[str, Row]:
    return {row.agent: row for row in rows if row.task == task}


def without_time(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=None) for row in rows]


# -- an episode -----------------------------------------------------------------------------------


def test_a_trajectory_is_read_back_as_it_was_written():
    played = play(LINE, "near", 3, "test", LINE.agents["heuristic"])
    assert Trajectory.from_json(json.loads(json.dumps(played.to_json()))) == played


def test_an_episode_keeps_refused_answers_and_what_was_seen_before_them():
    episode = LINE.begin("near", 3, "test")
    turn = take_turn(episode, Refusal("malformed", "no action in 'hello'"))
    assert turn.action is None
    assert turn.refusal == {"kind": "malformed", "why": "no action in 'hello'"}
    assert turn.observation["steps_left"] == 12
    assert turn.parts == {"invalid": -0.1}


def test_an_episode_that_never_ends_is_an_error_not_a_score():
    def silent(episode: Episode) -> Script:
        episode.steps = -100  # type: ignore[misc]  # an environment that miscounts
        return Script([Refusal("empty", "")] * 100)

    card = AgentCard("silent", "canary", silent, "says nothing")
    with pytest.raises(NeverEnded, match="the task allows 12"):
        play(LINE, "near", 0, "test", card)


# -- the rows -------------------------------------------------------------------------------------


def test_the_default_table_holds_random_a_canary_heuristics_and_the_reference_in_that_order():
    rows = compare(LINE, ["near"], episodes=30)
    assert [r.agent for r in rows] == [
        "random", "finish_at_once", "heuristic", "near_only", "reference",
    ]  # fmt: skip
    assert [r.role for r in rows][-1] == "reference"


def test_every_row_has_the_promised_keys():
    rows = json.loads(table.as_json(compare(LINE, ["near"], episodes=20)))
    assert all(row.keys() >= PROMISED for row in rows)


def test_the_reference_reaches_the_optimum_and_has_no_regret():
    best = by_agent(compare(LINE, ["near"], episodes=30))["reference"]
    assert (best.score, best.regret, best.share_of_optimum) == pytest.approx((0.999, 0.0, 1.0))


def test_a_row_is_what_one_gets_by_playing_the_episodes_oneself():
    row = by_agent(compare(LINE, ["near"], ["random"], episodes=25, seed0=7))["random"]
    card = LINE.agents["random"]
    own = [result(play(LINE, "near", seed, "test", card)) for seed in range(7, 32)]
    assert row.n == 25
    assert row.score == pytest.approx(sum(r.score for r in own) / 25)
    assert row.episode_return == pytest.approx(sum(r.episode_return for r in own) / 25)
    assert row.queries == pytest.approx(sum(r.queries or 0 for r in own) / 25)


def test_all_agents_play_the_same_patients(tmp_path: Path):
    compare(LINE, ["near", "far"], episodes=5, seed0=40, run=tmp_path / "r")
    seen: dict[tuple[str, str], list[int]] = {}
    for t in read_episodes(tmp_path / "r" / "episodes.jsonl"):
        seen.setdefault((t.task, t.agent), []).append(t.seed)
    assert set(map(tuple, seen.values())) == {tuple(range(40, 45))}
    assert len(seen) == 9  # five agents, of whom one plays near alone


def test_differences_are_to_the_heuristic_unless_another_baseline_is_named():
    rows = by_agent(compare(LINE, ["near"], episodes=40))
    own, reference = rows["heuristic"], rows["reference"]
    assert own.diff is None and own.baseline == "heuristic"
    assert reference.diff == pytest.approx((reference.score or 0) - (own.score or 0))
    assert reference.diff_low is not None and reference.diff_low > 0
    assert reference.p is not None and reference.p_holm is not None
    assert reference.p <= reference.p_holm < 0.05
    assert reference.wins is not None and reference.detectable is not None
    assert 0.5 < (reference.wins_low or 0) <= reference.wins <= (reference.wins_high or 0)
    named = by_agent(compare(LINE, ["near"], episodes=40, baseline="random"))
    assert named["random"].diff is None and named["heuristic"].baseline == "random"


def test_over_calling_is_counted_on_clean_patients_alone():
    changed = {"action_type": "propose_intervention"}
    step = {"observation": {}, "refusal": None, "reward": 0.0, "parts": {}}
    body = play(LINE, "near", 0, "test", LINE.agents["heuristic"]).to_json()
    meddled = Trajectory.from_json(
        {**body, "turns": [{**step, "action": changed}], "outcome": {"clean": True}}
    )
    assert (result(meddled).clean, result(meddled).interventions) == (True, 1)
    refused = Trajectory.from_json(
        {
            **body,
            "turns": [{**step, "action": changed, "refusal": {"kind": "budget", "why": "spent"}}],
            "outcome": {"clean": True},
        }
    )
    assert result(refused).interventions == 0


def test_without_a_told_optimum_regret_is_taken_to_the_reference_even_if_it_is_not_in_the_table():
    told = by_agent(compare(LINE, ["near"], ["heuristic"], episodes=30))["heuristic"]
    untold = by_agent(compare(NumberLine(tells=False), ["near"], ["heuristic"], episodes=30))
    assert untold["heuristic"].regret == pytest.approx(told.regret)
    assert untold["heuristic"].share_of_optimum is None


def test_several_tasks_get_a_block_each_and_sums():
    rows = compare(LINE, ["near", "far"], episodes=20)
    assert list(dict.fromkeys(r.task for r in rows)) == ["near", "far", "all"]
    near, far, both = (by_agent(rows, task)["random"] for task in ("near", "far", "all"))
    assert both.n == 40
    assert both.score == pytest.approx(((near.score or 0) + (far.score or 0)) / 2)
    assert both.iqm_low is not None and both.iqm is not None and both.iqm_high is not None
    assert both.iqm_low <= both.iqm <= both.iqm_high


def test_an_agent_that_does_not_play_a_task_keeps_a_row_that_says_so():
    rows = compare(LINE, ["near", "far"], episodes=5)
    far = by_agent(rows, "far")["near_only"]
    assert (far.n, far.score, far.note) == (0, None, "does not play this task")
    assert by_agent(rows, "all")["near_only"].note == "1 of 2 tasks"


def test_lost_episodes_are_left_out_of_means_and_of_pairs_and_counted():
    rows = by_agent(compare(LINE, ["near"], ["heuristic", _Loses(3)], episodes=20))
    assert rows["shaky"].n == 17
    assert rows["shaky"].note == "3 lost, left out"
    assert rows["shaky"].score == pytest.approx(0.999)


def test_several_attempts_at_a_patient_are_one_patient_and_one_pair():
    def attempts(agent: str, scores: list[float]) -> Played:
        each = enumerate(scores)
        told = (Result("t", agent, i // 2, score, score, 1, 0, 0.0) for i, score in each)
        return Played("t", agent, "heuristic", tuple(told))

    ours, theirs = [0.5, 0.7, 0.2, 0.6, 0.9, 0.9], [0.4, 0.4, 0.3, 0.5, 0.9, 0.8]
    own, base = rows_of("f", "test", [attempts("ours", ours), attempts("theirs", theirs)], "theirs")
    assert own.n == base.n == 3
    assert own.diff == pytest.approx(((0.6 - 0.4) + (0.4 - 0.4) + (0.9 - 0.85)) / 3)
    assert own.wins == pytest.approx(2.5 / 3)


class _Loses(CardPlayer):
    """The reference behind a server that loses the first episodes."""

    def __init__(self, how_many: int) -> None:
        super().__init__(LINE.agents["reference"], "shaky")
        object.__setattr__(self, "lost", range(how_many))

    def play(self, family, task, split, seeds):  # type: ignore[no-untyped-def]
        for trajectory in super().play(family, task, split, seeds):
            gone = trajectory.seed in self.lost  # type: ignore[attr-defined]
            yield replace(trajectory, score=0.0, lost="server gone") if gone else trajectory


# -- who plays ------------------------------------------------------------------------------------


def test_a_missing_model_is_a_row_that_says_how_to_make_it():
    row = by_agent(compare(LINE, ["near"], ["heuristic", "sft=local:runs/none"], episodes=3))["sft"]
    assert (row.n, row.score) == (0, None)
    assert "there is no folder runs/none" in row.note
    assert "python -m training.sft" in row.note


def test_a_missing_adapter_and_a_missing_base_are_rows_too(tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "no/such"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x")
    rows = compare(LINE, ["near"], ["adapter:nowhere", f"a=adapter:{tmp_path}"], episodes=2)
    assert "training.grpo" in rows[0].note
    assert "hf download no/such" in rows[1].note


def test_a_folder_without_weights_says_so(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (row,) = compare(LINE, ["near"], [f"m=local:{tmp_path}"], episodes=2)
    assert "but no weights" in row.note


def test_the_settings_of_a_run_are_not_taken_for_its_model(tmp_path: Path):
    model = tmp_path / "grpo" / "model"
    model.mkdir(parents=True)
    (tmp_path / "grpo" / "config.json").write_text('{"max_steps": 110}')
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    assert model_folder(str(tmp_path / "grpo"), "config.json", "make run") == model


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("heuristik", "did you mean 'heuristic'?"),
        ("loca:x", "did you mean 'local'?"),
        ("local", "needs an argument: local:FOLDER"),
    ],
)
def test_an_unknown_agent_is_refused_with_the_nearest_name(spec: str, says: str):
    with pytest.raises(UnknownAgent, match=says.replace("?", r"\?")):
        find(spec, LINE)


def test_help_names_every_kind_of_agent(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert [kind.USAGE for kind in roster.kinds().values() if kind.USAGE not in told] == []


def test_a_task_of_another_family_is_answered_with_that_family(capsys: pytest.CaptureFixture[str]):
    assert command.main(["--tasks", "target_easy", "--agents", "random"]) == 2
    assert "it is one of drug_target's; take --family drug_target" in capsys.readouterr().err


def test_two_agents_of_one_name_and_a_baseline_that_does_not_play_are_refused():
    with pytest.raises(SameName):
        compare(LINE, ["near"], ["random", "random"], episodes=2)
    with pytest.raises(UnknownAgent, match="no baseline 'heuristic'"):
        compare(LINE, ["near"], ["random"], episodes=2, baseline="heuristic")


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"temperature": -1.0}, "temperature = -1.0: it is 0 or more"),
        ({"batch": 0}, "batch = 0: it is at least 1"),
        ({"top_p": 0.0}, "top_p = 0.0: it is above 0"),
        ({"max_new_tokens": -3}, "max_new_tokens = -3"),
    ],
)
def test_a_knob_that_no_model_could_play_with_is_refused(knobs: dict[str, Any], says: str):
    with pytest.raises(BadOption, match=says):
        Options(**knobs)


def test_all_is_every_task_and_a_task_named_twice_is_played_once():
    assert {r.task for r in compare(LINE, ["all"], ["random"], episodes=2)} == {
        "near",
        "far",
        "all",
    }
    assert len(compare(LINE, ["near", "near"], ["random"], episodes=2)) == 1


def test_wrong_tasks_splits_and_numbers_are_refused_before_anything_is_played():
    with pytest.raises(UnknownTask, match="did you mean 'near'"):
        compare(LINE, ["neer"])
    with pytest.raises(BadSplit, match="did you mean 'test'"):
        compare(LINE, ["near"], split="tset")  # type: ignore[arg-type]
    with pytest.raises(RoundsError, match="at least one episode"):
        compare(LINE, ["near"], episodes=0)


# -- what training makes --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Learned:
    """A kind of player as `eval/agents` holds them, with one checkpoint: of `near`."""

    IN_TABLE: int
    FAMILIES: tuple[str, ...] | None = None
    DEFAULT: str = "runs/learned"
    USAGE: str = "learned:FOLDER"
    trained_on: tuple[Patients, ...] = ()

    def player(self, argument: str, name: str, options: Options) -> CardPlayer:
        return _LearnedPlayer(LINE.agents["reference"], name, self.trained_on)


class _LearnedPlayer(CardPlayer):
    def __init__(self, card: AgentCard, name: str, trained_on: tuple[Patients, ...]) -> None:
        super().__init__(card, name)
        object.__setattr__(self, "seen", trained_on)

    @property
    def trained_on(self):  # type: ignore[no-untyped-def]
        return self.seen  # type: ignore[attr-defined]

    def play(self, family, task, split, seeds):  # type: ignore[no-untyped-def]
        if task != "near":
            raise NotReady(f"no checkpoint of {task}; make one with: python -m training.learn")
        return super().play(family, task, split, seeds)


def _with_kinds(monkeypatch: pytest.MonkeyPatch, **kinds: _Learned) -> None:
    monkeypatch.setattr(roster, "kinds", lambda: dict(kinds))
    monkeypatch.setattr(roster, "learned", LEARNED)


def test_learned_kinds_stand_by_rank_between_heuristics_and_the_reference(
    monkeypatch: pytest.MonkeyPatch,
):
    others = _Learned(1, ("polypharmacy",))
    _with_kinds(monkeypatch, late=_Learned(9), early=_Learned(2, ("number_line",)), others=others)
    agents = [row.agent for row in compare(LINE, ["near"], episodes=4)]
    assert agents[-4:] == ["near_only", "early", "late", "reference"]
    assert "early" not in [r.agent for r in compare(LINE, ["near"], episodes=4, shipped=True)]


def test_a_kind_without_a_checkpoint_of_one_task_keeps_a_row_that_says_how_to_make_it(
    monkeypatch: pytest.MonkeyPatch,
):
    _with_kinds(monkeypatch, learned=_Learned(1))
    rows = compare(LINE, ["near", "far"], episodes=4)
    assert by_agent(rows, "near")["learned"].n == 4
    assert "python -m training.learn" in by_agent(rows, "far")["learned"].note
    assert by_agent(rows, "all")["learned"].note == "1 of 2 tasks"


def test_a_default_agent_that_knows_the_patients_is_refused_in_its_row_and_a_named_one_aloud(
    monkeypatch: pytest.MonkeyPatch,
):
    seen = Patients("number_line", "near", "test", 2, 9)
    _with_kinds(monkeypatch, learned=_Learned(1, trained_on=(seen,)))
    row = by_agent(compare(LINE, ["near"], episodes=4))["learned"]
    assert row.n == 0 and "was trained on" in row.note
    with pytest.raises(TrainedOnTest):
        compare(LINE, ["near"], ["learned"], episodes=4)


def test_the_models_of_make_run_are_rows_even_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(roster, "learned", lambda family: ["sft", "grpo"])
    assert {"sft", "grpo"} <= set(LEARNED(registry.get("polypharmacy")))
    played = compare("polypharmacy", ["review_easy", "easy_screening"], episodes=2)
    for task, how in (("review_easy", "make run"), ("easy_screening", "--task easy_screening")):
        rows = by_agent(played, task)
        for agent in ("sft", "grpo"):
            assert rows[agent].n == 0 and how in rows[agent].note


# -- engines --------------------------------------------------------------------------------------


def _backwards(family, task, split, agent, seeds):  # type: ignore[no-untyped-def]
    """An engine that plays each agent by its spec, last patient first."""
    yield from find(agent, LINE).play(LINE, task, split, list(reversed(seeds)))


def test_another_engine_yields_the_same_rows(tmp_path: Path):
    here = compare(LINE, ["near", "far"], episodes=9)
    there = compare(LINE, ["near", "far"], episodes=9, engine=_backwards, run=tmp_path / "r")
    assert without_time(there) == without_time(here)
    assert set(replay(tmp_path / "r" / "episodes.jsonl", lambda _: LINE)) == {None}


def test_an_engine_that_forgets_a_patient_is_an_error():
    def forgets(family, task, split, agent, seeds):  # type: ignore[no-untyped-def]
        return _backwards(family, task, split, agent, seeds[1:])

    with pytest.raises(Unplayed, match="1 of 5 patients were not played, seed 0"):
        compare(LINE, ["near"], ["random"], episodes=5, engine=forgets)


def test_an_engine_needs_agents_that_can_travel_and_its_package(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NoEngine, match="only an agent's spec can travel"):
        compare(LINE, ["near"], [_Loses(1)], episodes=2, engine=_backwards)
    monkeypatch.setattr("eval.engine.find_spec", lambda name: None)
    with pytest.raises(NoEngine, match=r"needs the package ray: pip install"):
        engine("ray", Options(), None, 2)
    assert engine("local", Options(), None, None) is None


# -- what it costs --------------------------------------------------------------------------------


class _Billed(CardPlayer):
    """The heuristic, as if behind an API that charges a cent a patient and knows no price for one."""

    def play(self, family, task, split, seeds):  # type: ignore[no-untyped-def]
        for trajectory in super().play(family, task, split, seeds):
            bill = {"requests": 2, "prompt_tokens": 400, "completion_tokens": 30}
            priced = {**bill, "cost_usd": 0.01} if trajectory.seed else bill
            yield replace(trajectory, usage=priced)


def test_what_an_api_charged_is_in_the_table():
    billed = _Billed(LINE.agents["heuristic"], "api")
    rows = compare(LINE, ["near"], ["heuristic", billed], episodes=4)
    row = by_agent(rows)["api"]
    assert (row.tokens, row.prompt_tokens, row.cost_usd) == pytest.approx((30, 400, 0.01))
    assert (row.note, rows[0].cost_usd) == ("", None)
    assert "| 30 | 400 | 0.0100 |" in table.markdown(rows)


# -- held out -------------------------------------------------------------------------------------


def test_a_model_is_not_measured_on_a_patient_it_was_trained_on(tmp_path: Path):
    learned = {
        "family": "number_line", "task": "near", "split": "test", "seed_from": 0, "seed_to": 9,
    }  # fmt: skip
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "run" / "seeds.json").write_text(json.dumps({"trained_on": [learned]}))
    with pytest.raises(TrainedOnTest, match=r"seeds 0 to 8.*--seed0 9"):
        compare(LINE, ["near"], [f"local:{model}"], episodes=5, seed0=8)
    with pytest.raises(TrainedOnTest):
        compare(LINE, ["near"], [f"local:{tmp_path / 'run'}"], episodes=5)


def test_patients_of_another_split_task_or_range_do_not_overlap():
    learned = Patients("f", "t", "train", 0, 10)
    for other in (
        replace(learned, split="test"),
        replace(learned, task="u"),
        replace(learned, seed_from=10, seed_to=20),
    ):
        refuse_overlap("sft", [learned], [other])
    with pytest.raises(TrainedOnTest):
        refuse_overlap("sft", [learned], [replace(learned, seed_from=9, seed_to=20)])


def test_a_seeds_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path):
    (tmp_path / "rounds.json").write_text('{"trained_on": [{"family": "f"}]}')
    with pytest.raises(UnreadableSeeds, match=r"rounds\.json"):
        trained_on(tmp_path)


# -- runs -----------------------------------------------------------------------------------------


def test_a_killed_run_resumes_to_the_same_table(tmp_path: Path):
    run = tmp_path / "r"
    whole = compare(LINE, ["near"], episodes=12, run=run)
    lines = (run / "episodes.jsonl").read_bytes()
    (run / "episodes.jsonl").write_bytes(lines[: len(lines) // 2])
    said: list[str] = []
    again = compare(LINE, ["near"], episodes=12, run=run, resume=True, say=said.append)
    assert without_time(again) == without_time(whole)
    assert len(said) == 1 and "the last line was cut off" in said[0]
    assert len(list(read_episodes(run / "episodes.jsonl"))) == 60


def test_a_run_that_cannot_be_read_or_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(RunExists, match="file is a file"):
        compare(LINE, ["near"], episodes=3, run=tmp_path / "file")
    (tmp_path / "r").mkdir()
    for damage in ("{bad", "3"):
        (tmp_path / "r" / "settings.json").write_text(damage)
        with pytest.raises(RunDiffers, match=r"settings\.json cannot be read.*delete"):
            compare(LINE, ["near"], episodes=3, run=tmp_path / "r", resume=True)


def test_a_run_is_neither_overwritten_nor_mixed_with_other_settings(tmp_path: Path):
    compare(LINE, ["near"], episodes=3, run=tmp_path / "r")
    with pytest.raises(RunExists, match="--resume"):
        compare(LINE, ["near"], episodes=3, run=tmp_path / "r")
    with pytest.raises(RunDiffers, match="episodes = 3, not 4"):
        compare(LINE, ["near"], episodes=4, run=tmp_path / "r", resume=True)
    with pytest.raises(RunDiffers, match="version = '1', not '2'"):
        compare(NumberLine(version="2"), ["near"], episodes=3, run=tmp_path / "r", resume=True)


def test_a_run_takes_in_agents_that_were_not_ready_and_refuses_one_that_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "r"
    compare(LINE, ["near"], ["random", "m=local:nowhere"], episodes=3, run=run)
    both = ["random", "heuristic", CardPlayer(LINE.agents["reference"], "m")]
    rows = by_agent(compare(LINE, ["near"], both, episodes=3, run=run, resume=True))
    assert [rows[name].n for name in ("random", "heuristic", "m")] == [3, 3, 3]
    assert len(list(read_episodes(run / "episodes.jsonl"))) == 9
    monkeypatch.setattr(CardPlayer, "identity", lambda self: "trained again")
    with pytest.raises(RunDiffers, match="m = 'shipped', not 'trained again'"):
        compare(LINE, ["near"], ["m=heuristic"], episodes=3, run=run, resume=True)


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path):
    run = tmp_path / "r"
    compare(LINE, ["near"], episodes=2, run=run)
    lines = (run / "episodes.jsonl").read_text().splitlines()
    lines[3] = lines[3][:40]
    (run / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(BadLine, match="line 4"):
        compare(LINE, ["near"], episodes=2, run=run, resume=True)


# -- how it is shown ------------------------------------------------------------------------------


def test_a_narrow_terminal_gets_what_matters_most_and_is_told_what_is_missing():
    rows = compare(LINE, ["near"], episodes=9)
    text = io.StringIO()
    table.show(rows, Console(file=text, width=80))
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "Δ [95 %]" in shown and "│ queries" not in shown
    assert "Left out, for want of width:" in shown and "queries" in shown.split("Left out")[1]
    wide = io.StringIO()
    table.show(rows, Console(file=wide, width=table.PLAIN_WIDTH))
    assert "Left out" not in wide.getvalue()


def test_a_remark_is_made_once_with_the_tasks_it_is_about():
    rows = compare(LINE, ["near", "far"], ["random", "near_only", "m=local:nowhere"], episodes=3)
    remarks = table.notes(rows)
    assert remarks[0].startswith("m: there is no folder nowhere")
    assert remarks[1] == "near_only on far: does not play this task"
    assert remarks[2:] == ["near_only over all tasks: 1 of 2 tasks"]
    assert all(remark in table.markdown(rows) for remark in remarks)
    assert "Fewer than 100 patients" in table.legend(rows)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def _number_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(registry, "get", lambda name: LINE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_number_line")
def test_the_command_prints_the_table_in_every_form(capsys: pytest.CaptureFixture[str]):
    asked = ["--family", "number_line", "--tasks", "near", "--episodes", "6"]
    assert command.main([*asked, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert command.main([*asked, "--csv"]) == 0
    cells = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [c["agent"] for c in cells] == [r["agent"] for r in rows]
    assert float(cells[0]["score"]) == rows[0]["score"]
    assert command.main([*asked, "--markdown"]) == 0
    assert "| random |" in capsys.readouterr().out
    assert command.main(asked) == 0
    shown = capsys.readouterr().out
    assert "number_line · near · test · 6 patients" in shown
    assert "reference" in shown and "95 %" in shown


@pytest.mark.usefixtures("_number_line")
def test_the_command_keeps_a_run_and_says_plainly_what_is_wrong(capsys: pytest.CaptureFixture[str]):
    asked = ["--tasks", "near", "--episodes", "3", "--run", "first", "--json"]
    assert command.main(asked) == 0
    assert Path("runs/first/table.json").is_file()
    assert json.loads(Path("runs/first/seeds.json").read_text())["evaluated_on"][0]["seed_to"] == 3
    capsys.readouterr()
    assert command.main(asked) == 2
    out, err = capsys.readouterr()
    assert out == "" and "error: runs/first exists" in err


@pytest.mark.usefixtures("_number_line")
@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "."])
def test_a_run_stays_in_its_folder(name: str, capsys: pytest.CaptureFixture[str]):
    assert command.main(["--tasks", "near", "--episodes", "1", "--run", name]) == 2
    assert "runs are kept in runs/" in capsys.readouterr().err


@pytest.mark.usefixtures("_number_line")
def test_workers_belong_to_an_engine(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main(["--tasks", "near", "--episodes", "1", "--workers", "2"])
    assert "--engine ray" in capsys.readouterr().err


@pytest.mark.usefixtures("_number_line")
def test_a_folder_that_cannot_be_made_is_an_error_message(capsys: pytest.CaptureFixture[str]):
    Path("runs").write_text("a file where a folder should be")
    assert command.main(["--tasks", "near", "--episodes", "1", "--run", "x"]) == 2
    assert "runs" in capsys.readouterr().err


@pytest.mark.usefixtures("_number_line")
def test_ctrl_c_ends_with_130_and_the_way_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    asked = ["--tasks", "near", "--agents", "random,heuristic", "--episodes", "3", "--run", "x"]
    with monkeypatch.context() as patch:
        patch.setattr("fakes.Asker.act", interrupted)
        assert command.main(asked) == 130
    assert "--run x --resume" in capsys.readouterr().err
    assert len(list(read_episodes(Path("runs/x/episodes.jsonl")))) == 3
    assert command.main([*asked, "--resume"]) == 0


@pytest.mark.usefixtures("_number_line")
def test_canaries_are_added_to_named_agents_and_nobody_else_is(capsys: pytest.CaptureFixture[str]):
    command.main(
        ["--tasks", "near", "--episodes", "2", "--agents", "heuristic", "--canaries", "--json"]
    )
    agents = [row["agent"] for row in json.loads(capsys.readouterr().out)]
    assert agents == ["heuristic", "finish_at_once"]


@pytest.mark.usefixtures("_number_line")
@pytest.mark.parametrize("flag", ["--report", "--resume"])
def test_what_needs_a_kept_run_says_so_before_anything_is_played(
    flag: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        command.main(["--tasks", "near", flag])
    assert ended.value.code == 2
    assert "needs --run NAME" in capsys.readouterr().err


# -- real patients --------------------------------------------------------------------------------


def test_on_real_patients_the_reference_is_best_and_blind_stopping_is_not(tmp_path: Path):
    rows = by_agent(
        compare("polypharmacy", ["review_easy"], episodes=40, shipped=True, run=tmp_path / "r"),
        "review_easy",
    )
    assert {"random", "heuristic", "blind_stop", "reference"} <= rows.keys()
    scores = {agent: row.score or 0.0 for agent, row in rows.items()}
    assert max(scores, key=scores.__getitem__) == "reference"
    assert scores["heuristic"] > scores["random"]
    assert rows["reference"].regret == pytest.approx(0.0, abs=1e-6)
    assert rows["reference"].overcall_share == 0.0
    assert all((row.regret or 0.0) >= 0.0 for row in rows.values())
    assert set(replay(tmp_path / "r" / "episodes.jsonl")) == {None}


@pytest.mark.slow
def test_killing_a_run_loses_at_most_the_line_being_written(tmp_path: Path):
    asked = [
        sys.executable, "-m", "eval.compare", "--tasks", "review_easy", "--agents", "random,heuristic",
        "--episodes", "300", "--run", "killed", "--json",
    ]  # fmt: skip
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen(asked, cwd=tmp_path, env=here, stdout=subprocess.DEVNULL)
    kept = tmp_path / "runs" / "killed" / "episodes.jsonl"
    while not (kept.exists() and kept.stat().st_size > 200_000):
        assert child.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    child.kill()
    child.wait()
    before = kept.read_bytes().count(b"\n")
    done = subprocess.run(
        [*asked, "--resume"], cwd=tmp_path, env=here, capture_output=True, text=True, check=True
    )
    assert [row["n"] for row in json.loads(done.stdout)] == [300, 300]
    played = [(t.agent, t.seed) for t in read_episodes(kept)]
    assert 0 < before < 600
    assert len(played) == len(set(played)) == 600
