"""A GRPO run trains, survives being killed, and hands over the checkpoint that validation chose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from bench.processes import descendants, still_running  # noqa: E402
from configs.loader import ConfigError  # noqa: E402
from eval.heldout import trained_on  # noqa: E402
from training import grpo  # noqa: E402
from training.examiner import Examiner  # noqa: E402
from training.grpo import BadStart, cases, main, train  # noqa: E402
from training.grpo_settings import GrpoSettings, parse, resolved  # noqa: E402
from training.sft import SftConfig  # noqa: E402
from training.sft import train as warm_start  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "answer_tokens": 12,
    "context_tokens": 500,
    "style": "brief",
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "max_steps": 3,
    "save_steps": 1,
    "validation_patients": 4,
    "validation_every": 1,
    "preflight_groups": 1,
    "in_process": True,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has seen a few moves: an untrained one fails alike in every attempt."""
    run = tmp_path_factory.mktemp("warm") / "run"
    return warm_start(SftConfig(output=str(run), episodes=160, steps=30, device="cpu"))


def flags(start: Path, run: Path, **other: Any) -> list[str]:
    knobs = {**SHORT, "model": start, "output": run, **other}
    return [text for name, value in knobs.items() for text in (f"--{name}", str(value))]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def steps(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def finished(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps that nobody disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(flags(start, run)) == 0
    return run


def test_a_run_leaves_model_metrics_and_what_it_was_trained_on(finished: Path, start: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(finished / "model")
    AutoTokenizer.from_pretrained(finished / "model")
    assert steps(finished) == [1, 2, 3]
    warm, seen = trained_on(finished / "model")
    assert (seen.task, seen.split, seen.seed_to - seen.seed_from) == ("review_easy", "train", 6)
    assert (warm.split, warm.seed_from) == ("train", 0)
    looks = [json.loads(x) for x in (finished / "validation.jsonl").read_text().splitlines()]
    assert [look["step"] for look in looks] == [0, 1, 2, 3]


def test_a_run_proves_its_rollout_before_it_begins(finished: Path) -> None:
    (proof,) = json.loads((finished / "proof.json").read_text())
    assert proof["violations"] == []
    assert (proof["episodes"], proof["likelihood"]) == (4, True)
    assert proof["tokens"] > 0


def test_a_metrics_line_says_what_matters(finished: Path) -> None:
    line = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    wanted = {"reward", "score", "refusal_share", "tied_groups", "tokens_per_s", "lost", "loss"}
    assert wanted <= line.keys()
    parts = sum(value for name, value in line.items() if name.startswith("parts/"))
    assert parts == pytest.approx(line["reward"], abs=1e-5)


def test_the_same_command_again_has_nothing_to_do(
    finished: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert main(flags(start, finished)) == 0
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert capsys.readouterr().out.strip() == str(finished / "model")


def test_killed_and_resumed_equals_never_killed(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said = tmp_path / "stderr.txt"
    with said.open("wb") as stderr:
        child = subprocess.Popen(
            [sys.executable, "-m", "training.grpo", *flags(start, run)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    saved = run / "checkpoints" / "checkpoint-1" / "trainer_state.json"
    deadline = time.monotonic() + 240
    while not saved.is_file() and time.monotonic() < deadline:
        assert child.poll() is None, said.read_text()
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not (run / "model").exists()

    assert main(flags(start, run)) == 0
    assert steps(run) == [1, 2, 3]
    last = "checkpoints/checkpoint-3"
    again, once, before = weights(run / last), weights(finished / last), weights(start)
    assert all(torch.equal(again[name], once[name]) for name in once)
    assert not all(torch.equal(before[name], once[name]) for name in once)


def test_passes_by_length_learn_the_same(finished: Path, start: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(flags(start, run, length_groups=4)) == 0
    whole, cut = (
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        for folder in (finished, run)
    )
    for figure in ("loss", "grad_norm", "entropy", "num_tokens"):
        assert cut[figure] == pytest.approx(whole[figure], rel=1e-4, abs=1e-6)


@contextmanager
def beside(run: Path, flags: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """The run in a process group of its own, as a shell would start it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "training.grpo", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def await_first(child: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[1]
        time.sleep(0.002)


def test_ctrl_c_saves_says_so_and_the_same_command_ends_with_the_same_bytes(
    finished: Path, start: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    seldom = flags(start, run, save_steps=50, in_process=False)  # only Ctrl-C writes a checkpoint
    with beside(run, seldom) as child:
        await_first(child, lambda: (run / "metrics.jsonl").is_file() and bool(steps(run)))
        started = descendants(child.pid)
        os.killpg(child.pid, signal.SIGINT)  # the terminal tells the whole group
        _, said = child.communicate(timeout=120)
    (saved,) = (run / "checkpoints").glob("checkpoint-*")
    step = saved.name.rpartition("-")[2]
    assert child.returncode == 130
    assert f"stopped at step {step} of 3, checkpoint in {run / 'checkpoints'}" in said
    assert "the same command goes on" in said and "Traceback" not in said
    assert step in ("1", "2") and not (run / "model").exists()
    assert started and still_running(started) == 0

    assert main(seldom) == 0
    assert steps(run) == [1, 2, 3]
    for name in ("model", "best"):
        written = f"{name}/model.safetensors"
        assert (run / written).read_bytes() == (finished / written).read_bytes()


def test_ctrl_c_before_the_first_step_says_what_is_left_without_a_traceback(
    start: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with beside(run, flags(start, run, in_process=False)) as child:
        await_first(child, (run / "server.log").is_file)
        os.killpg(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "stopped at once" in said and "Traceback" not in said


def test_lora_trains_adapters_and_hands_over_a_whole_model(start: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings, config = parse(
        flags(start, run, lora_r=4, validation_patients=0, in_process=False, max_steps=1)
    )
    model = train(settings, config)
    assert (run / "best" / "adapter_config.json").is_file()
    assert weights(model).keys() == weights(start).keys()
    assert not all(torch.equal(weights(model)[n], weights(start)[n]) for n in weights(start))
    assert (run / "server.log").is_file()  # it played through a server of its own


def test_an_unknown_key_is_an_error_that_names_the_near_one(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rat: 1e-3\n")
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        parse(["--config", str(path)])
    with pytest.raises(ConfigError, match="did you mean '--max_steps'"):
        parse(["--max_step", "3"])
    with pytest.raises(ConfigError, match="learning_rate"):
        parse(["--learning_rate", "fast"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_generations", "1"], "TRL refuses these settings: .*2 generations"),
        (
            ["--length_groups", "9", "--per_device_train_batch_size", "8"],
            "9 passes.*8 rows.*at most 8",
        ),
        (["--max_lost_share", "3"], "max_lost_share is 3.0; it lies in 0..1"),
        (["--preflight_groups", "-1"], "preflight_groups is -1; it must be 0 or more"),
        (
            ["--answer_tokens", "64", "--context_tokens", "64"],
            "context_tokens is 64.*answer_tokens",
        ),
        (["--env_patience_s", "-1"], "env_patience_s is -1.0; it must be 0 or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_value_that_cannot_be_is_an_error_before_anything_is_loaded(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(flags)
    assert main(flags) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 3e-3\nmax_steps: 7\nstyle: brief\n")
    settings, config = parse(["--config", str(path), "--max_steps", "9"])
    assert (config.learning_rate, config.max_steps, settings.style) == (0.003, 9, "brief")
    assert resolved(settings, config)["max_steps"] == 9


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "grpo").glob("*.yaml")), ids=str)
def test_every_shipped_config_is_read(path: Path) -> None:
    values = path.read_text()
    hardware = (
        ["--bf16", "false", "--fp16", "false"] if "fp16" in values or "bf16" in values else []
    )
    settings, config = parse(["--config", str(path), *hardware])
    assert config.generation_batch_size % config.num_generations == 0
    assert settings.tasks
    assert values.startswith("# ")


def test_another_configuration_in_the_same_folder_is_refused(
    finished: Path, start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(start, finished, learning_rate=5e-4)) == 2
    assert "learning_rate=0.001" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(start: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings, config = parse(flags(start, tmp_path / "file" / "run"))
    with pytest.raises(BadStart, match="cannot write"):
        train(settings, config)


def test_no_model_no_task_and_no_server_are_clear_errors(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path / "nowhere", tmp_path / "a")) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(flags(start, tmp_path / "b", tasks="review_esy")) == 2
    assert "did you mean 'review_easy'" in capsys.readouterr().err
    gone = flags(start, tmp_path / "c", in_process=False, env_url="http://127.0.0.1:9")
    assert main(gone) == 2
    assert "no server at" in capsys.readouterr().err


class _FullDisk:
    """A trainer that is stopped while it writes its weights."""

    def save_model(self, folder: str) -> None:
        Path(folder).mkdir()
        raise OSError("no space left")


def test_weights_half_written_are_never_taken_for_the_best(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space"):
        grpo._keep_last(_FullDisk(), tmp_path / "best")
    assert not (tmp_path / "best").exists()


def test_a_resumed_run_is_not_tired_of_looks_it_has_yet_to_take(tmp_path: Path) -> None:
    looks = [{"step": step, "score": 1.0 - step / 10} for step in range(5)]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(x) + "\n" for x in looks))
    here: Any = SimpleNamespace(global_step=1)
    for patience, tired in ((1, True), (2, False)):
        examiner = Examiner(None, (), None, 1, tmp_path, patience=patience)  # type: ignore[arg-type]
        assert examiner.tired
        examiner.on_train_begin(None, here, None)  # type: ignore[arg-type]
        assert examiner.tired is tired


def test_cases_go_round_the_tasks_and_never_repeat() -> None:
    settings = GrpoSettings(tasks=["review_easy", "review_budgeted"])
    found = cases(settings, "train", 5, seed_from=10)
    assert [(c.task, c.seed) for c in found] == [
        ("review_easy", 10),
        ("review_budgeted", 10),
        ("review_easy", 11),
        ("review_budgeted", 11),
        ("review_easy", 12),
    ]


def test_four_bits_without_a_gpu_or_without_adapters_are_refused_in_words(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(start, tmp_path / "a", quantize=True)) == 2
    assert "lora_r is 0" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(flags(start, tmp_path / "b", quantize=True, lora_r=4)) == 2
        assert "needs a GPU" in capsys.readouterr().err
