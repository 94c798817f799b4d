"""Two processes learn as one: every rank plays its share, and one of them writes it down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from configs.loader import read  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")
ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=str)
def test_every_accelerate_config_is_one(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(path))
    assert loaded.num_processes == read(path)["num_processes"]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs/grpo").glob("*.yaml")), ids=str)
def test_every_grpo_config_names_settings_that_exist(path: Path) -> None:
    from training.grpo_settings import parse

    settings, config = parse(["--config", str(path), "--use_cpu", "true", "--bf16", "false"])
    assert settings.tasks and config.max_steps > 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs/cluster").glob("*.sbatch")), ids=str)
def test_every_batch_script_is_valid_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.slow
def test_two_processes_train_one_policy(tmp_path: Path) -> None:
    from training.sft import SftConfig
    from training.sft import train as warm_start

    start = warm_start(
        SftConfig(output=str(tmp_path / "sft"), episodes=120, steps=20, device="cpu")
    )
    run = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "configs/accelerate/cpu_two.yaml")]
    command += ["--main_process_port", "0", "-m", "training.grpo", "--model", str(start)]
    command += ["--output", str(run), "--per_device_train_batch_size", "8"]
    command += ["--num_generations", "4", "--max_steps", "2", "--save_steps", "1"]
    command += ["--answer_tokens", "12", "--context_tokens", "500", "--learning_rate", "1e-3"]
    command += ["--validation_patients", "4", "--validation_every", "1"]
    command += ["--preflight_groups", "1", "--curriculum", "true"]
    done = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True,
        text=True, timeout=420, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2], "one process writes"
    assert (run / "model" / "model.safetensors").is_file()
    assert len((run / "validation.jsonl").read_text().splitlines()) == 3
