"""The server says what a trained bandit thinks of a combination, or how to get one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import serving_here

from env_server import app as server
from env_server import bandit_door
from training.pair_bandit import PairBanditConfig, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bandit over real drugs, trained for a moment."""
    run = tmp_path_factory.mktemp("bandit")
    return train(PairBanditConfig(output=str(run), patients=60, validation=3, hidden=4, epochs=1))


@contextmanager
def door(folder: Path | str) -> Iterator[httpx.Client]:
    app = server.create_app(bandit=str(folder))
    with serving_here(app, ws_max_size=2**20) as url, httpx.Client(base_url=url) as http:
        yield http


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[httpx.Client]:
    with door(folder) as client:
        yield client


def test_a_combination_is_judged_by_its_worst_pair(http: httpx.Client) -> None:
    asked = ["warfarin", "ibuprofen", "metformin"]
    reply = http.post("/bandit/predict", json={"drugs": asked})
    assert reply.status_code == 200, reply.text
    told = reply.json()
    assert told["drugs"] == asked
    assert told["risk"] == max(pair["risk"] for pair in told["pairs"])
    assert len(told["pairs"]) == 3


def test_many_combinations_are_answered_in_order(http: httpx.Client) -> None:
    asked = [["metformin"], ["warfarin", "aspirin"]]
    told = http.post("/bandit/screen", json={"combinations": asked}).json()
    assert [r["drugs"] for r in told["results"]] == asked
    assert told["results"][0]["risk"] == 0
    assert told["dangerous"] == sum(r["dangerous"] for r in told["results"])


def test_metrics_say_how_it_was_trained(http: httpx.Client) -> None:
    told = http.get("/bandit/metrics").json()
    assert (told["kind"], told["task"], told["patients"]) == ("pairs", "review_easy", 60)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("predict", {"drugs": ["warfarine"]}, "did you mean 'warfarin'"),
        ("predict", {"drugs": []}, "1 to 100 drugs"),
        ("predict", {"drugs": "warfarin"}, "1 to 100 drugs"),
        ("predict", {"drug": ["warfarin"]}, "drug"),
        ("predict", {"drugs": [7]}, "7 is no drug"),
        ("screen", {"combinations": [["aspirin"], "x"]}, "combinations[1]"),
        ("screen", {"combinations": []}, "1 to 1000 combinations"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    http: httpx.Client, path: str, body: Any, words: str
) -> None:
    reply = http.post(f"/bandit/{path}", json=body)
    assert reply.status_code == 422
    assert words in reply.json()["detail"].replace("'7'", "7")


def test_without_a_trained_bandit_the_answer_names_the_command(tmp_path: Path) -> None:
    with door(tmp_path / "nothing") as http:
        reply = http.post("/bandit/predict", json={"drugs": ["aspirin"]})
    assert reply.status_code == 503
    assert "python -m training.bandit" in reply.json()["detail"]


async def test_without_the_room_above_the_answer_names_what_to_install() -> None:
    from env_server.provided import NotProvided

    with pytest.raises(NotProvided, match="rounds\\[train\\]"):
        await bandit_door.Lent("no_such_room:open_screen", "unused").get()


def test_answering_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from eval.screening import open_screen;"
        f"open_screen({str(folder)!r}).screen([['aspirin', 'warfarin']]);"
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.strip() == "False", answer.stderr
