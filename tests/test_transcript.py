"""A transcript has exactly the promised lines, an END for every START, and nothing else on stdout."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hostile_llm as h
import pytest
from fakes import NumberLine
from hostile_llm import FINISH, Hostile, hostile
from servers import serving_here

from env_server import app as server
from env_server import registry
from eval import transcript
from eval.agents.human import HumanPlayer, Left
from eval.compare import main as compare_main
from eval.episode import play
from eval.lines import fixed, one_line
from eval.roster import CardPlayer, find
from eval.transcript import main
from eval.watched import decision, watched

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
FAMILY = registry.get("polypharmacy")
SEEDS = ["easy_screening", "budgeted_screening", "complex_tradeoff"]
START = re.compile(r"\[START\] task=\S+ env=polypharmacy model=\S+")
STEP = re.compile(
    r"\[STEP\] step=\d+ action=(?:\{.*\}|null) reward=-?\d+\.\d\d done=(?:true|false) error=.+"
)
END = re.compile(
    r"\[END\] success=(?:true|false) steps=\d+ score=[01]\.\d{3} rewards=(?:-?\d+\.\d\d,?)*"
)


def lines(capsys: Any) -> list[str]:
    return capsys.readouterr().out.splitlines()


def served(server: Hostile, **knobs: Any) -> str:
    told = {"cache": "false", "backoff_s": "0.01", "backoff_cap_s": "0.02", **knobs}
    return f"llm:tiny@{server.url}?" + "&".join(f"{name}={value}" for name, value in told.items())


def test_the_transcript_of_the_heuristic_is_the_golden_one(capsys: Any) -> None:
    assert main(["--agent", "heuristic"]) == 0
    golden = GOLDEN / "transcript_heuristic.txt"
    assert capsys.readouterr().out == golden.read_text("utf-8"), (
        "if this was meant: python inference.py --agent heuristic > tests/golden/transcript_heuristic.txt"
    )


def test_a_served_model_plays_the_three_seed_tasks_in_exactly_the_promised_lines(
    capsys: Any,
) -> None:
    with hostile([h.says("I am not sure.\n[END] success=true")]) as there:
        assert main(["--agent", served(there)]) == 0
    said = lines(capsys)
    shapes = [START, STEP, STEP, END, START, STEP, END, START, STEP, END]
    assert len(said) == len(shapes)
    assert all(shape.fullmatch(line) for shape, line in zip(shapes, said, strict=True)), said
    assert [line.split("task=")[1].split()[0] for line in said if "[START]" in line] == SEEDS
    assert "model=tiny" in said[0]
    assert " action=null " in said[1] and said[1].endswith("answer with one JSON object")


@pytest.mark.parametrize("fault", [h.status(404), h.status(400, "no")])
def test_every_start_has_its_end_whatever_breaks(fault: h.Fault, capsys: Any) -> None:
    with hostile(always=fault) as there:
        assert main(["--agent", served(there, form="text"), "--episodes", "2"]) == 1
    out, err = capsys.readouterr()
    said = out.splitlines()
    assert len(said) == 12
    assert {line for line in said if "START" not in line} == {
        "[END] success=false steps=0 score=0.000 rewards="
    }
    assert there.url in err


@pytest.mark.slow
def test_the_three_tasks_take_at_most_sixty_answers(capsys: Any) -> None:
    with hostile(always=h.says("no")) as there:  # two minutes at two seconds each
        assert main(["--agent", served(there)]) == 0
    assert len(there.bodies) == 60
    ends = [line for line in lines(capsys) if line.startswith("[END]")]
    assert [line.split("steps=")[1].split()[0] for line in ends] == ["10", "20", "30"]


def test_a_run_ends_within_its_time_though_the_server_hangs(capsys: Any) -> None:
    ask = '{"action_type":"propose_intervention"}'
    with hostile([h.says(ask)], always=h.hang) as there:
        began = time.monotonic()
        assert main(["--agent", served(there), "--deadline-s", "0.8"]) == 1
    assert time.monotonic() - began < 4
    out, err = capsys.readouterr()
    ends = [line for line in out.splitlines() if line.startswith("[END]")]
    assert len(ends) == 3 and ends[0].startswith("[END] success=false steps=1 score=0.000")
    assert "--deadline-s" in err


@pytest.mark.slow  # a process of its own, with everything it imports
def test_a_program_that_is_ended_still_says_end() -> None:
    with hostile(always=h.hang) as there:
        command = [sys.executable, "inference.py", "--agent", served(there)]
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        first = child.stdout.readline()
        while not there.bodies:
            time.sleep(0.02)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=20)
    assert first.startswith("[START]") and out.startswith("[END] success=false"), out + err
    assert child.returncode == 143


def test_without_a_model_nothing_is_on_stdout_and_stderr_says_what_to_set(
    capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.delenv("MODEL_NAME", raising=False)
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "MODEL_NAME" in err


def test_the_json_lines_have_the_fields_of_the_source_in_its_order(capsys: Any) -> None:
    asked = ["--agent", "heuristic", "--log-format", "json", "--episodes", "2"]
    assert main([*asked, "--tasks", "easy_screening", "--seed0", "1"]) == 0
    tagged = [line.split(" ", 1) for line in lines(capsys)]
    bodies = [json.loads(body) for _, body in tagged]
    tags = [tag for tag, _ in tagged]
    assert tags == ["[START]", *["[STEP]"] * (len(tags) - 2), "[END]"]
    assert list(bodies[0])[:3] == ["run_id", "task_id", "model"]
    assert list(bodies[1]) == [
        "run_id", "task_id", "episode_id", "step_index", "observation_summary",
        "action_payload", "reward", "done",
    ]  # fmt: skip
    scores = [play(FAMILY, "easy_screening", s, "test", FAMILY.agents["heuristic"]) for s in (1, 2)]
    assert [e["score"] for e in bodies[-1]["episodes"]] == [t.score for t in scores]
    assert bodies[-1]["mean_score"] == pytest.approx(sum(t.score for t in scores) / 2)
    assert {body["run_id"] for body in bodies} == {bodies[0]["run_id"]}


def test_bounded_rewards_are_those_of_the_published_environment(capsys: Any) -> None:
    main(["--agent", "heuristic", "--reward-style", "bounded", "--tasks", "easy_screening"])
    assert not [line for line in lines(capsys) if "reward=-" in line]


def test_a_transcript_through_a_server_is_the_one_played_here(capsys: Any) -> None:
    main(["--agent", "heuristic"])
    here = lines(capsys)
    with serving_here(server.create_app(families=[FAMILY]), ws_max_size=2**20) as url:
        assert main(["--agent", "heuristic", "--env-url", url]) == 0
        assert lines(capsys) == here
        with hostile() as there:
            main(["--agent", served(there)])
            alone = lines(capsys)
            assert main(["--agent", served(there), "--env-url", url]) == 0
            assert lines(capsys) == alone


def test_a_server_that_plays_another_game_is_found_out(capsys: Any) -> None:
    app = server.create_app(reward_style="bounded", families=[FAMILY])
    with serving_here(app, ws_max_size=2**20) as url:
        assert main(["--agent", "heuristic", "--env-url", url, "--tasks", "easy_screening"]) == 1
    assert "signed rewards" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_before_anything_is_played(capsys: Any) -> None:
    assert main(["--agent", "heuristic", "--env-url", "http://127.0.0.1:9"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "127.0.0.1:9" in err


def test_a_viewer_finds_the_latest_step_in_the_live_file(tmp_path: Path, capsys: Any) -> None:
    live = tmp_path / "live" / "state.json"
    main(["--agent", "heuristic", "--tasks", "easy_screening", "--live", str(live)])
    told = json.loads(live.read_text("utf-8"))
    steps = [line for line in lines(capsys) if line.startswith("[STEP]")]
    assert told["done"] is True and told["step"] == len(steps) == len(told["rewards"])
    assert told["task"] == "easy_screening" and told["observation"]["done"] is True
    assert os.listdir(live.parent) == ["state.json"]


@pytest.mark.parametrize("family", registry.names())
def test_the_live_file_is_written_after_every_step(
    family: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, Any]] = []
    live, write = tmp_path / "state.json", transcript.write_live

    def keeping(path: Path, body: dict[str, Any]) -> None:
        write(path, body)
        kept.append(json.loads(live.read_text("utf-8")))

    monkeypatch.setattr(transcript, "write_live", keeping)
    task = next(iter(registry.get(family).tasks))
    main(["--agent", "heuristic", "--family", family, "--tasks", task, "--live", str(live)])
    steps = [line for line in lines(capsys) if line.startswith("[STEP]")]
    assert [told["step"] for told in kept] == list(range(1, len(steps) + 1))
    assert [told["done"] for told in kept] == [False] * (len(steps) - 1) + [True]
    assert all(told["action"] and told["observation"] for told in kept)


def test_options_are_those_of_every_episode_here_and_on_a_server(
    tmp_path: Path, capsys: Any
) -> None:
    asked = ["--agent", "reference", "--family", "drug_target", "--tasks", "target_easy"]
    live = tmp_path / "state.json"
    asked += ["--option", "scenario=cd33_aml_misleading", "--option", "budget=40"]
    with serving_here(server.create_app("drug_target"), ws_max_size=2**20) as url:
        said = []
        for where in ([], ["--env-url", url]):
            assert main([*asked, "--live", str(live), *where]) == 0
            said.append(lines(capsys))
            shown = json.loads(live.read_text("utf-8"))["observation"]
            assert (shown["target_gene"], shown["credits_total"]) == ("CD33", 40)
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("said", "why"),
    [("kapa=.5", "did you mean 'kappa'"), ("kappa=.5.", "kappa must be"), ("kappa=2", "0 to 1")],
)
def test_a_wrong_option_is_told_before_anything_is_played(said: str, why: str, capsys: Any) -> None:
    assert main(["--agent", "random", "--family", "drug_target", "--option", said]) == 2
    out, err = capsys.readouterr()
    assert out == "" and why in err


@pytest.mark.parametrize("family", registry.names())
def test_any_family_is_played_aloud(family: str, capsys: Any) -> None:
    task = next(iter(registry.get(family).tasks))
    assert main(["--agent", "random", "--family", family, "--tasks", task]) == 0
    said = lines(capsys)
    assert said[0] == f"[START] task={task} env={family} model=random"
    assert END.fullmatch(said[-1])


def test_an_agent_that_does_not_play_a_task_says_so(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(registry, "get", lambda name: NumberLine())
    assert main(["--agent", "near_only", "--family", "number_line", "--tasks", "far"]) == 1
    assert "does not play this task" in capsys.readouterr().err


def test_numbers_are_rounded_and_zero_has_no_sign() -> None:
    assert [fixed(-0.001, 2), fixed(0.6149, 3), fixed(-0.015, 2)] == ["0.00", "0.615", "-0.01"]
    assert one_line("a\n[END] b\r\n c") == "a [END] b c"


# -- one decision of anybody ----------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["heuristic", "first_legal"])
@pytest.mark.parametrize("task", ["easy_screening", "review_easy"])
def test_a_player_asked_move_by_move_plays_as_it_plays_alone(agent: str, task: str) -> None:
    whole = play(FAMILY, task, 4, "train", FAMILY.agents[agent])
    episode, player = FAMILY.begin(task, 4, "train"), find(agent, FAMILY)
    while not episode.done:
        move = decision(player, FAMILY, episode)
        assert move is not None
        episode.step(move)
    assert episode.score() == whole.score


def test_being_asked_leaves_the_episode_untouched() -> None:
    episode = FAMILY.begin("review_easy", 4, "train")
    before = episode.observe().to_json()
    decision(CardPlayer(FAMILY.agents["random"], "random"), FAMILY, episode)
    assert (episode.steps, episode.observe().to_json()) == (0, before)


def test_every_step_is_seen_by_who_watches() -> None:
    seen: list[Any] = []
    lent = watched(FAMILY, lambda episode, action, step: seen.append((action, step.reward)))
    (found,) = find("heuristic", FAMILY).play(lent, "review_easy", "train", [3])
    assert [reward for _, reward in seen] == [turn.reward for turn in found.turns]


# -- a person at the terminal ---------------------------------------------------------------------------


def person(*typed: str) -> HumanPlayer:
    heard, said = io.StringIO("\n".join(typed) + "\n"), io.StringIO()
    return HumanPlayer("human", "full", heard, said)


def test_a_person_answers_with_numbers_and_json() -> None:
    human = person("?", "/query", "99999", "1", FINISH)
    (found,) = human.play(FAMILY, "easy_screening", "train", [0])
    first = FAMILY.begin("easy_screening", 0, "train").legal_actions()[0]
    assert [turn.action for turn in found.turns] == [first.to_json(), json.loads(FINISH)]
    told = human.speak.getvalue()  # type: ignore[attr-defined]
    assert "clinical pharmacist" in told and "no action 99999" in told and "score" in told


def test_a_persons_typing_errors_are_refused_as_a_models_are() -> None:
    (found,) = person("stop everything", FINISH).play(FAMILY, "easy_screening", "train", [0])
    assert found.turns[0].refusal and found.turns[0].refusal["kind"] == "malformed"
    assert found.turns[0].action is None


def test_a_person_who_leaves_ends_the_run_with_words(monkeypatch: Any, capsys: Any) -> None:
    with pytest.raises(Left, match="resume"):
        list(person("q").play(FAMILY, "easy_screening", "train", [0]))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert compare_main(["--agents", "human", "--tasks", "easy_screening", "--episodes", "1"]) == 2
    assert "the player left" in capsys.readouterr().err
