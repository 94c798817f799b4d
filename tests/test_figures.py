"""What a page says was measured is what was measured: tables and sentences against the kept records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"[-+−]?\d*\.?\d+")

SCORE = ("score", "score_low", "score_high")
DIFF = ("diff", "diff_low", "diff_high")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "score": ("score",),
    "95 %": ("score_low", "score_high"),
    "score [95 %]": SCORE,
    "less heuristic": DIFF,
    "less heuristic [95 %]": DIFF,
    "difference to heuristic [95 %]": DIFF,
    "less warm start": ("diff",),
    "95 %, paired": ("diff_low", "diff_high"),
    "Δ [95 %]": DIFF,
    "Δ score": DIFF,
    "return": ("return",),
    "questions": ("queries",),
    "changes": ("interventions",),
    "of optimum": ("share_of_optimum",),
    "refused": ("refusal_share",),
    "over-called": ("overcall_share",),
}
Cells = dict[str, str]
Record = dict[str, Any]


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def kept(name: str) -> Any:
    return json.loads((ROOT / name).read_text("utf-8"))


def tables(text: str) -> list[list[Cells]]:
    """The Markdown tables of a page, each row by the heads of its columns."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.M):
        lines = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")
        ]
        head, _, *body = lines
        found.append([dict(zip(head, row, strict=False)) for row in body if len(row) == len(head)])
    return found


def table(name: str, *heads: str) -> list[Cells]:
    """The rows of the one kind of table on a page that has these columns and no figures but ours."""
    rows = [row for rows in tables(page(name)) for row in rows if set(heads) <= set(row)]
    assert rows, f"{name} has no table with {heads}"
    return rows


def agree(cell: str, values: Iterable[float | None], where: object) -> None:
    """The numbers of a cell are these values, rounded as they are shown; an empty cell has none."""
    known = [value for value in values if value is not None]
    shown = NUMBER.findall(re.sub(r"(?<=\d)-(?=\.?\d)", " ", cell))  # .136-.192 is a range
    if not shown:
        assert not known or known == [0.0], (where, cell, known)
        return
    share = 100.0 if "%" in cell else 1.0
    assert len(shown) == len(known), (where, cell, known)
    for text, value in zip(shown, known, strict=True):
        digits = len(text.partition(".")[2])
        told = float(text.replace("−", "-"))
        # half a digit of room: 0.0005 may be shown either way
        assert told == pytest.approx(share * value, abs=0.5001 * 10**-digits), (where, cell, value)


def row_of(rows: Iterable[Record], agent: str, task: str) -> Record:
    (found,) = [row for row in rows if (row["agent"], row["task"]) == (agent, task)]
    return found


def hold(shown: Iterable[Cells], rows: list[Record], task: str | None = None) -> None:
    """Every cell of a table that is about a column we know is what the record has."""
    for cells in shown:
        agent = re.sub(r"[*`]", "", cells["agent"])
        asked = cells.get("task", task or "").strip("`")
        record = row_of(rows, agent, asked)
        for head in COLUMNS.keys() & cells.keys():
            agree(cells[head], [record[field] for field in COLUMNS[head]], (asked, agent, head))


def test_a_stale_figure_is_seen() -> None:
    agree(".741 (.707-.771)", (0.7408, 0.7067, 0.7710), "as shown")
    agree("−.578", (-0.5777,), "a typographic minus")
    with pytest.raises(AssertionError, match="stale"):
        agree(".741", (0.742,), "stale")
    with pytest.raises(AssertionError, match="untold"):
        agree("", (0.5,), "untold")


def test_the_readme_shows_the_run_of_the_demo() -> None:
    record = kept("docs/results/demo/before_after.json")
    hold(table("README.md", "agent", "less warm start"), record["rows"], record["task"])
    said = re.search(r"^Warm start .*paired\)", page("README.md"), re.M)
    assert said
    scores = {row["agent"]: row["score"] for row in record["rows"]}
    gain = record["grpo_minus_sft"]
    told = [scores["sft"], scores["grpo"], gain["mean"], gain["low"], gain["high"]]
    agree(said[0], told, "the sentence under the table")
    assert f"{record['n']} test patients" in page("README.md")
    seconds = record["seconds"]
    assert f"{seconds['sft']:.0f} s of warm start and {seconds['grpo']:.0f} s of GRPO" in page(
        "README.md"
    )


def test_the_readme_shows_the_table_of_all_tasks() -> None:
    rows = kept("docs/results/polypharmacy/table.json")
    shown = table("README.md", "task", "grpo", "ppo", "bandit")
    assert {cells["task"].strip("`") for cells in shown} == {r["task"] for r in rows} - {"all"}
    for cells in shown:
        for agent in cells.keys() - {"task"}:
            name = "llm (served grpo)" if agent == "llm" else agent
            record = row_of(rows, name, cells["task"].strip("`"))
            agree(cells[agent], [record[field] for field in SCORE], (cells["task"], agent))


def test_the_table_of_all_tasks_is_the_same_in_both_forms() -> None:
    rows = kept("docs/results/polypharmacy/table.json")
    text = page("docs/results/polypharmacy/table.md")
    for title, block in zip(re.findall(r"^\*\*(.+)\*\*$", text, re.M), tables(text), strict=True):
        task = title.split(" · ")[1]
        hold(block, rows, task if task in {row["task"] for row in rows} else "all")


def test_what_the_readme_says_of_gaming_is_in_the_tables() -> None:
    rows = kept("docs/results/polypharmacy/table.json")

    def score(agent: str, task: str) -> str:
        return f"{row_of(rows, agent, task)['score']:.3f}".lstrip("0")

    easy, review = "easy_screening", "review_easy"
    for said in (
        f"scores {score('blind_stop', easy)} against {score('heuristic', easy)}",
        f"scores {score('blind_stop', review)} against {score('heuristic', review)}",
        f"`easy_screening` goes from {score('sft', easy)} to {score('grpo', easy)}",
    ):
        assert said in page("README.md"), said
    longer = kept("docs/results/review_budgeted/before_after.json")
    scores = {row["agent"]: row["score"] for row in longer["rows"]}
    gain = longer["grpo_minus_sft"]
    said = re.search(r"went from ([^;]*);", page("README.md"))
    assert said
    agree(
        said[1], [scores["sft"], scores["grpo"], *(gain[k] for k in ("mean", "low", "high"))], said
    )


@pytest.mark.parametrize(
    ("name", "heads", "record"),
    [
        ("docs/ppo.md", ("agent", "less heuristic [95 %]"), "docs/results/ppo/best.json"),
        ("docs/ppo.md", ("agent", "Δ [95 %]"), "docs/results/ppo/table.json"),
        ("docs/reinforce.md", ("agent", "less heuristic"), "docs/results/reinforce/table.json"),
    ],
)
def test_a_page_shows_the_rows_that_were_kept(
    name: str, heads: tuple[str, ...], record: str
) -> None:
    found = kept(record)
    hold(table(name, *heads), found["rows"] if isinstance(found, dict) else found)


def test_the_bandits_page_shows_the_table_of_all_tasks() -> None:
    rows = kept("docs/results/polypharmacy/table.json")
    for cells in table("docs/bandit.md", "task", "bandit", "of optimum"):
        bandit = row_of(rows, "bandit", cells["task"])
        for agent in ("random", "heuristic", "bandit"):
            record = row_of(rows, agent, cells["task"])
            fields = SCORE if "[" in cells[agent] else SCORE[:1]
            agree(cells[agent], [record[field] for field in fields], (cells["task"], agent))
        for head in ("difference to heuristic [95 %]", "of optimum"):
            agree(cells[head], [bandit[field] for field in COLUMNS[head]], (cells["task"], head))


def test_the_source_documents_table_is_the_one_that_was_measured_again() -> None:
    rows = {row["task"]: row for row in kept("bench/results/reinforce_table.json")["rows"]}
    heads = {
        "here, last policy": "after_last_update",
        "best on validation": "best_on_validation",
    }
    for cells in table("docs/reinforce.md", "source documents", *heads):
        record = rows.pop(cells["task"].strip("`"))
        agree(cells["source documents"], [record["source_documents"]], cells)
        for head, field in heads.items():
            agree(cells[head], [record[field][end] for end in ("mean", "low", "high")], cells)
    assert not rows


def test_the_speed_of_reinforce_is_the_one_that_was_measured() -> None:
    figures = kept("bench/results/reinforce.json")["figures"]
    rows = table("docs/reinforce.md", "measured", "promised")
    for cells, figure in zip(rows, figures, strict=True):
        agree(cells["measured"].replace(" ", ""), [figure["value"]], cells)


def test_target_validation_shows_the_rows_that_were_kept() -> None:
    rows = {row["agent"]: row for row in kept("docs/results/drug_target_medium/table.json")}
    short = {"sft": "sft", "sft then GRPO": "grpo"}
    for cells in table("docs/drug_target_learning.md", "agent", "Δ score"):
        name = re.split(r"[,(]", cells["agent"].replace("**", ""))[0].strip()
        record = rows[short.get(name, name)]
        for head, fields in (("score", SCORE), ("Δ score", DIFF)):
            whole = fields if "[" in cells[head] else fields[:1]
            agree(cells[head], [record[field] for field in whole], (name, head))
        for head in ("right", "credits", "off evidence", "ECE"):
            agree(cells[head], [record["measures"][head]], (name, head))


@pytest.mark.parametrize("task", ["review_easy", "complex_tradeoff"])
def test_what_ppo_reached_on_validation_is_in_its_journal(task: str) -> None:
    text = page(f"docs/results/ppo/{task}_best.jsonl")
    looks = [look for look in map(json.loads, text.splitlines()) if "validation" in look]
    best = max(looks, key=lambda look: look["validation"])
    (cells,) = [row for row in table("docs/ppo.md", "as imitated") if task in row["task"]]
    agree(cells["as imitated"], [looks[0]["validation"]], cells)
    agree(cells["best on validation"], [best["validation"]], cells)
    assert int(cells["at step"].replace(" ", "")) == best["step"]


def test_what_a_table_can_find_is_what_was_simulated() -> None:
    figures = {
        one["name"]: one["value"] for one in kept("bench/results/statistics.json")["figures"]
    }
    found = 100 * figures["both slip, one improves: 0.03 found"]
    assert f"in {found:.0f} of 100 tables" in page("README.md")
    rows = kept("docs/results/demo/before_after.json")["rows"]
    detects = row_of(rows, "grpo", "review_easy")["detectable"]
    shown = f"{detects:.3f}".lstrip("0")
    assert f"(`docs/results/demo`) 500 patients detect {shown}" in page("docs/evaluation.md")


def test_the_servers_page_shows_the_run_of_every_bench() -> None:
    (ran,) = [s for s in kept("bench/results/all_quick.json")["scripts"] if s["script"] == "server"]
    figures = {row["name"]: row for row in ran["rows"]}
    stock, batched = (
        figures["stock protocol, ours over stock"],
        figures["batched frames over stock"],
    )
    wait = figures["ours: wait for a step among 256, quantile 0.99"]["value"]
    memory = figures["ours: memory with 1000 idle sessions"]["value"]
    text = page("docs/server.md")
    for said in (
        f"{stock['value']:.1f} times stock's steps",
        f"(rounds: {stock['low']:.1f} to {stock['high']:.1f};",
        f"{batched['value']:.0f} times in batched frames ({batched['low']:.1f} to {batched['high']:.1f};",
        f"within {wait:.1f} ms",
        f"{memory:.0f} MB with 1 000 idle sessions",
    ):
        assert said in text, said
