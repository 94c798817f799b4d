"""The page about a run: everything in one file, nothing from outside, and no text that can act."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NumberLine

from env_server.contract import canonical
from eval import charts, report
from eval.compare import compare
from eval.finished import NotFinished, read, read_rows
from eval.learned import journals, lines, training
from eval.record import read_episodes
from eval.report import page, rendered, smoothed, sort_key, write
from eval.rows import Row
from eval.spoken import passages
from eval.trajectory import Tokens, Trajectory

LINE = NumberLine()
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(autouse=True)
def only_our_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.story.registry.get", lambda name: LINE)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    asked = "python -m eval.compare"
    compare(LINE, ["near", "far"], episodes=8, shipped=True, run=tmp_path / "r", command=asked)
    return tmp_path / "r"


def rewritten(run: Path, edit: Any) -> Path:
    """The run with `edit` applied to every episode."""
    episodes = [edit(t) for t in read_episodes(run / "episodes.jsonl")]
    whole = b"".join(canonical(t.to_json()) + b"\n" for t in episodes)
    (run / "episodes.jsonl").write_bytes(whole)
    return run


def spoken(text: str) -> Any:
    """Every turn said `text`, and the tokens to go with it."""

    def edit(played: Trajectory) -> Trajectory:
        turns = tuple(replace(turn, text=text) for turn in played.turns)
        tokens = Tokens((1, 2), (3, 4, 5), (1, 0, 1), (-0.5, 0.0, -0.25))
        return replace(played, turns=turns, tokens=tokens)

    return edit


def text_of(run: Path) -> str:
    return write(run, read_rows(run)).read_text("utf-8")


# -- what is in it -------------------------------------------------------------------------------


def test_the_page_is_written_beside_its_run_and_shows_every_agent(run: Path):
    path = write(run, read_rows(run))
    assert path == run / "report.html"
    html = path.read_text("utf-8")
    for agent in ("random", "finish_at_once", "heuristic", "near_only", "reference"):
        assert agent in html
    assert "Research only, not medical advice" in html
    assert "python -m eval.compare" in html


def test_rows_are_read_back_as_they_were_written(tmp_path: Path):
    rows = compare(LINE, ["near"], episodes=5, run=tmp_path / "r")
    assert read_rows(tmp_path / "r") == rows


def test_the_worst_episodes_of_an_agent_are_those_with_the_largest_regret(run: Path):
    kept = read(run, worst=2).worst["random"]
    regrets = sorted(
        (t.outcome["regret"] for t in read_episodes(run / "episodes.jsonl") if t.agent == "random"),
        reverse=True,
    )
    assert [t.outcome["regret"] for t in kept] == regrets[:2]


def test_agents_that_are_not_in_the_rows_have_no_episodes_on_the_page(run: Path):
    rows = [row for row in read_rows(run) if row.agent != "random"]
    assert "random" not in {f.name for f in page(read(run), rows).failures}
    assert "random" in {f.name for f in page(read(run), read_rows(run)).failures}


def test_who_failed_nowhere_has_no_worst_episodes(run: Path):
    assert "reference" not in read(run).worst


def test_lost_episodes_are_neither_scored_nor_shown(run: Path):
    lost = rewritten(run, lambda t: replace(t, lost="socket closed") if t.seed == 3 else t)
    found = read(lost, worst=50)
    assert all(3 not in scores for scores in found.scores.values())
    assert all(t.seed != 3 for kept in found.worst.values() for t in kept)


def test_differences_are_those_of_the_same_patients(run: Path):
    rows, found = read_rows(run), read(run)
    row = next(r for r in rows if r.agent == "random" and r.task == "near")
    strip = report._strip(found, row)
    assert len(strip.values) == 8
    assert sum(strip.values) / 8 == pytest.approx(row.diff)


def test_an_absent_agent_is_named_with_what_makes_it(run: Path):
    absent = Row("number_line", "near", "grpo", "model", "test", note="make it with: train")
    shown = page(read(run), [*read_rows(run), absent])
    assert shown.absent == (("grpo", "make it with: train"),)


def test_an_unfinished_run_says_how_to_finish_it(run: Path, capsys: pytest.CaptureFixture[str]):
    (run / "table.json").unlink()
    assert report.main([str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(NotFinished, match="--run NAME"):
        read(run / "nowhere")
    assert report.main([str(run / "nowhere")]) == 2
    assert "no run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main([str(run), "--worst", "-1"])
    assert "0 or more" in capsys.readouterr().err


def test_the_command_prints_where_the_page_is(run: Path, capsys: pytest.CaptureFixture[str]):
    assert report.main([str(run), "--worst", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")


# -- nothing acts, nothing is fetched ----------------------------------------------------------


def test_hostile_words_are_shown_and_never_run(run: Path):
    def edit(played: Trajectory) -> Trajectory:
        first = replace(played.turns[0], observation={"patient": HOSTILE, "done": False})
        return spoken(HOSTILE)(replace(played, turns=(first, *played.turns[1:])))

    html = text_of(rewritten(run, edit))
    assert HOSTILE not in html
    assert "<img" not in html
    assert "&lt;/script&gt;" in html
    assert len(re.findall("<script", html)) == 1


def test_a_hostile_agent_or_task_name_cannot_leave_its_picture():
    picture = charts.intervals([charts.Mark(f'"{HOSTILE}', "model", 0.5)], None, HOSTILE)
    assert "<script" not in picture
    assert ET.fromstring(picture).tag == "svg"


def test_the_page_names_no_address_and_forbids_all_others(run: Path):
    html = text_of(run)
    assert not re.findall(r"https?:|[\"'(=]//", html)
    assert "default-src 'none'" in html
    assert set(re.findall(r'(?:src|href)="([^"#]*)', html)) <= {"data:,", ""}


def test_the_style_and_the_script_are_those_the_policy_allows(run: Path):
    html = text_of(run)
    for tag in ("style", "script"):
        body = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        assert body and f"{tag}-src 'sha256-{report._hash(body[1])}'" in html
    assert " style=" not in html


# -- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "ordered"),
    [
        (["1.20 s", "12.30 ms", "0.01 ms"], ["0.01 ms", "12.30 ms", "1.20 s"]),
        (["0.040", "<.001", "0.001"], ["<.001", "0.001", "0.040"]),
        (["+0.1 [0, 1]", "-0.3 [-1, 0]"], ["-0.3 [-1, 0]", "+0.1 [0, 1]"]),
        (["100.0 %", "-20.9 %", "5.0 %"], ["-20.9 %", "5.0 %", "100.0 %"]),
    ],
)
def test_cells_sort_by_what_they_mean(texts: list[str], ordered: list[str]):
    assert sorted(texts, key=lambda text: float(sort_key(text))) == ordered


def journal(folder: Path, records: list[dict[str, Any]], name: str = "metrics.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_a_curve_is_found_above_the_folder_of_its_model_or_in_folders_inside_it(tmp_path: Path):
    run = journal(tmp_path / "a" / "grpo", [{"step": 1, "loss": 2.0}])
    assert list(journals(run / "checkpoints" / "40")) == [run]
    each = [journal(tmp_path / "b" / "ppo" / task, []) for task in ("easy", "hard")]
    assert list(journals(tmp_path / "b" / "ppo")) == each
    assert list(journals(tmp_path / "none")) == []


def test_every_trainers_looks_at_validation_are_told_from_its_steps(tmp_path: Path):
    steps = [{"step": i, "score": i / 10, "loss": 1.0} for i in (1, 2)]
    look = {"step": 2, "score": 0.9}
    grpo = journal(journal(tmp_path / "g", steps), [look], "validation.jsonl")
    reinforce = journal(tmp_path / "r", [*steps, look | {"stage": "validation"}])
    ppo = journal(tmp_path / "p", [steps[0], steps[1] | {"validation": 0.9}])
    for home in (grpo, reinforce, ppo):
        found = training("x", home)
        assert found is not None
        assert (found.unit, found.figure) == ("step", "score")
        assert (found.noisy, found.looks) == (((1.0, 0.1), (2.0, 0.2)), ((2.0, 0.9),))
    assert training("x", journal(tmp_path / "other", [{"seconds": 3.0}])) is None


def test_a_journal_cut_short_is_read_as_far_as_it_goes(tmp_path: Path):
    run = journal(tmp_path, [{"step": 1, "score": 0.1}])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "sc')
    assert lines(run / "metrics.jsonl") == [{"step": 1, "score": 0.1}]


def test_learning_curves_of_the_agents_folders_are_drawn(run: Path, tmp_path: Path):
    body = "".join(json.dumps({"step": i, "loss": 2.0 / i}) + "\n" for i in range(1, 30))
    (tmp_path / "metrics.jsonl").write_text(body)
    told = {"players": {"sft": {"role": "model", "folder": str(tmp_path)}}}
    (run / "agents.json").write_text(json.dumps(told))
    assert "Learning curve of sft" in text_of(run)


def test_the_running_mean_looks_back_only():
    points = tuple((float(i), float(i >= 10)) for i in range(20))
    assert smoothed(points)[9] == (9.0, 0.0)
    assert smoothed(points)[19] == (19.0, 1.0)


def test_a_tape_is_cut_where_the_mask_changes():
    tokens = Tokens((7,), (1, 2, 3, 4), (1, 1, 0, 1), (-1.0, -2.0, 0.0, -0.5))
    found = passages(tokens, lambda ids: "-".join(map(str, ids)))
    assert [(p.text, p.sampled, p.logprob) for p in found] == [
        ("7", False, 0.0),
        ("1-2", True, -3.0),
        ("3", False, 0.0),
        ("4", True, -0.5),
    ]


@pytest.mark.parametrize("values", [[0.5], [0.999, 0.999], [0.0, 1.0], [0.3, 0.31]])
def test_every_picture_is_well_formed_and_in_its_frame(values: list[float]):
    marks = [charts.Mark(f"agent {i}", "model", v, v, v) for i, v in enumerate(values)]
    pictures = [
        charts.intervals(marks, values[0], "t"),
        charts.strips([charts.Strip(m, (0.0, m.value, -m.value)) for m in marks], "t"),
        charts.costs([charts.Spent(m, 1.0 + i) for i, m in enumerate(marks)], "steps", "t"),
        charts.costs([charts.Spent(m, 10.0**i) for i, m in enumerate(marks)], "t", "t", log=True),
        charts.curves([charts.Curve("c", "looks", tuple(enumerate(values)))], "t", "t"),
    ]
    for picture in pictures:
        ET.fromstring(picture)
        numbers = [float(n) for n in re.findall(r'[ML" ]x?=?"?(-?\d+\.\d)', picture)]
        assert all(-20 <= n <= 700 for n in numbers)


# -- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def browser() -> Iterator[Any]:
    sync = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    chromium = Path("/usr/bin/chromium")
    with sync.sync_playwright() as started:
        own = Path(started.chromium.executable_path)
        if not chromium.exists() and not own.exists():
            pytest.skip("needs chromium: apt install chromium, or playwright install chromium")
        path = chromium if chromium.exists() else own
        opened = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.slow
def test_a_browser_shows_the_page_on_a_phone_without_complaint_or_request(run: Path, browser: Any):
    path = write(rewritten(run, spoken(HOSTILE + "x" * 300)), read_rows(run))
    tab = browser.new_page(viewport={"width": 360, "height": 740})
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert said == []
    assert asked == [path.as_uri()]


@pytest.mark.slow
def test_a_column_sorts_from_the_keyboard(run: Path, browser: Any):
    tab = browser.new_page()
    tab.goto(write(run, read_rows(run)).as_uri())
    head = tab.locator("table.sortable").first.locator("th", has_text="score")
    column = "[...document.querySelector('table.sortable').tBodies[0].rows].map(r => +r.cells[%d].dataset.key)"
    at = head.evaluate("h => h.cellIndex")
    head.locator("button").focus()
    tab.keyboard.press("Enter")
    falling = tab.evaluate(column % at)
    assert falling == sorted(falling, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert tab.evaluate(column % at) == sorted(falling)
    assert "ascending" in tab.locator("#said").inner_text()


def test_the_whole_page_is_valid_enough_to_be_closed_everywhere(run: Path):
    html = rendered(page(read(run), read_rows(run)))
    for tag in ("details", "section", "table", "figure", "svg", "pre", "ol", "li", "span", "mark"):
        assert len(re.findall(rf"<{tag}[\s>]", html)) == html.count(f"</{tag}>"), tag
