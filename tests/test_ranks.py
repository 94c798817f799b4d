"""Several processes train as one: the same step, stopped together, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from bench.processes import descendants, still_running
from training import ranks

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes through /proc"),
]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a module `probe` is looked for by the ranks."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return tmp_path / "probe.py"


def test_every_rank_knows_its_place_and_gets_the_flags(module: Path, tmp_path: Path) -> None:
    module.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        from training import ranks
        Path(sys.argv[1], str(ranks.rank())).write_text(f"{ranks.world()} {sys.argv[2:]}")
        """)
    )
    assert ranks.run("probe", [str(tmp_path), "--a", "b"], 3) == 0
    told = {at: (tmp_path / str(at)).read_text() for at in range(3)}
    assert told == dict.fromkeys(range(3), "3 ['--a', 'b']")


def test_a_rank_that_fails_has_its_last_words_and_takes_the_others_along(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_GRACE_S", 0.5)
    module.write_text(
        "import time\nfrom training import ranks\ntime.sleep(600) if ranks.rank() == 0 else 1 / 0\n"
    )
    before = set(descendants(os.getpid()))
    with pytest.raises(ranks.RankEnded, match=r"rank 1 of probe ended with 1: (.|\n)*ZeroDivision"):
        ranks.run("probe", [], 2)
    assert not still_running([one for one in descendants(os.getpid()) if one not in before])


@pytest.mark.parametrize("code", [2, 130])
def test_what_rank_0_has_said_is_not_said_again(module: Path, code: int) -> None:
    module.write_text(f"raise SystemExit({code})")
    assert ranks.run("probe", [], 2) == code


def test_ranks_are_gone_when_their_parent_is_killed(module: Path, tmp_path: Path) -> None:
    module.write_text("import time; time.sleep(600)")
    parent = subprocess.Popen(
        [sys.executable, "-c", "from training import ranks; ranks.run('probe', [], 2)"], cwd=ROOT
    )
    try:
        ends = time.monotonic() + 60
        while len(started := descendants(parent.pid)) < 2 and time.monotonic() < ends:
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.wait()
    assert len(started) == 2 and not still_running(started, within_s=30)


def test_shares_are_dealt_and_gathered_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.dataset import Mixture, collect, part

    mixture = Mixture("polypharmacy", ("easy_screening", "review_easy"), 7, noise=(0.0, 0.5))
    shares = [part(mixture, which, 2) for which in range(2)]
    assert [len(share) for share in shares] == [4, 3]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.utils.gather_object", lambda own: shares)
    assert tuple(ranks.in_order(shares[0])) == collect(mixture).examples


def test_what_a_rank_has_played_can_be_sent_to_the_others() -> None:
    import pickle

    from transformers import AutoTokenizer

    from env_server import registry
    from eval.dialogue import converse
    from eval.door import LocalDoor, Request
    from eval.episode import play
    from eval.generate import Completion
    from training import tiny

    family = registry.get("polypharmacy")
    with tempfile.TemporaryDirectory() as folder:
        tiny.build(Path(folder), "polypharmacy", ("easy_screening",), 0, "tiny", "brief")
        tokenizer = AutoTokenizer.from_pretrained(folder)

    def silent(contexts: Sequence[Sequence[int]]) -> list[Completion]:
        return [Completion([tokenizer.eos_token_id], [0.0], False) for _ in contexts]

    request = Request("easy_screening", 3, "train")
    (talked,) = converse(LocalDoor(family), [request], silent, tokenizer, style="brief")
    for told in (talked, play(family, "easy_screening", 3, "train", family.agents["random"])):
        assert pickle.loads(pickle.dumps(told)) == told


def warm_start(run: Path, batch: int, steps: int, episodes: int, *more: str) -> list[str]:
    flags = {
        "output": run, "device": "cpu", "batch": batch, "steps": steps, "episodes": episodes,
        "warmup": 0, "reading": 0.2, "lr": 1e-3, "save_every": 500, "log_every": 1,
    }  # fmt: skip
    return [*(word for name, value in flags.items() for word in (f"--{name}", str(value))), *more]


@pytest.mark.slow
def test_two_ranks_take_the_step_that_one_takes(tmp_path: Path) -> None:
    """All the conversations in one batch, so that no order can matter."""
    from safetensors.torch import load_file

    for count in (1, 2):
        flags = warm_start(tmp_path / str(count), 8 // count, 1, 8, "--schedule", "constant")
        assert ranks.run("training.sft", flags, count) == 0
    alone, together = (
        load_file(tmp_path / str(count) / "model" / "model.safetensors") for count in (1, 2)
    )
    start = load_file(tmp_path / "1" / "init" / "model.safetensors")
    moved = sum(float((alone[name] - start[name]).abs().sum()) for name in start)
    apart = sum(float((alone[name] - together[name]).abs().sum()) for name in start)
    # Adam's first step is the gradient's sign: where that is all but zero, rounding decides
    assert moved > 0 and apart < 0.01 * moved
    written = [(tmp_path / str(n) / "dataset" / "episodes.jsonl").read_bytes() for n in (1, 2)]
    assert written[0] == written[1]


@pytest.mark.slow
def test_ctrl_c_stops_all_ranks_after_the_same_step(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = warm_start(run, 2, 400, 40)
    command = (
        f"import sys; from training import ranks; sys.exit(ranks.run('training.sft', {flags!r}, 2))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    ends = time.monotonic() + 240
    while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").read_text():
        assert child.poll() is None and time.monotonic() < ends
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130 and "the same command goes on from there" in said, said[-2000:]
    (checkpoint,) = (run / "checkpoints").glob("checkpoint-*")
    reached = int(checkpoint.name.rpartition("-")[2])
    assert 0 < reached < 400 and f"stopped at step {reached}" in said
