"""A LoRA run made here and now: its adapter is held against the merged model, and goes to the Hub as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from local_hub import TOKEN, local_hub  # noqa: E402

from training import evidence, publish  # noqa: E402
from training.grpo import main as grpo  # noqa: E402
from training.merge_check import largest_gap  # noqa: E402
from training.publish_folder import listing  # noqa: E402
from training.sft import SftConfig  # noqa: E402
from training.sft import train as warm_start  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[1]
REPO = "ada/rounds-lora"


def test_a_logit_that_is_no_number_is_no_agreement_wherever_it_stands() -> None:
    sound, broken = torch.zeros(2, 3), torch.full((2, 3), float("nan"))
    assert largest_gap([sound, sound], [sound, sound + 1]) == 1.0
    for logits in ([broken, sound], [sound, broken]):
        assert not largest_gap(logits, [sound, sound]) <= 1.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Warm start, two steps of GRPO with LoRA, and the table: everything real and very short."""
    base = tmp_path_factory.mktemp("lora")
    start = warm_start(
        SftConfig(output=str(base / "sft"), episodes=64, steps=8, device="cpu", seed=3)
    )
    knobs = {
        "model": start,
        "output": base / "grpo",
        "lora_r": 4,
        "answer_tokens": 12,
        "context_tokens": 500,
        "style": "brief",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "learning_rate": 5e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "validation_patients": 4,
        "validation_every": 2,
        "preflight_groups": 0,
        "in_process": True,
    }
    flags = [text for name, value in knobs.items() for text in (f"--{name}", str(value))]
    assert grpo(flags) == 0
    evidence.before_after(
        base / "grpo", base / "sft", base / "grpo", "polypharmacy", "review_easy", patients=4
    )
    return base / "grpo"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "grpo"))


def learned(run: Path) -> Path:
    """The adapter with weights that do something: the best of two steps may be the starting point."""
    from safetensors.torch import load_file, save_file

    weights = load_file(run / "best" / "adapter_model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: torch.randn(w.shape, generator=generator) * 0.05 if "lora_B" in name else w
        for name, w in weights.items()
    }
    save_file(moved, run / "best" / "adapter_model.safetensors", metadata={"format": "pt"})
    return run / "best"


def merge_again(run: Path) -> None:
    from training.handover import merged

    config = json.loads((run / "config.json").read_text())
    merged(config["model"], run / "best", lora=True).save_pretrained(run / "model")


def test_the_adapter_of_a_run_is_its_merged_model(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(copy)
    merge_again(copy)
    assert publish.main([str(copy), "--to", REPO, "--base", "ada/start", "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert "adapter against merged model: largest difference of a logit" in said
    assert "the same choice at 100.0 % of positions" in said
    names = {name for name, _ in listing(copy / "publish")}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    assert any(name.startswith("traces/") for name in names)
    named = json.loads((copy / "publish" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == "ada/start"
    assert "base_model: ada/start" in (copy / "publish" / "README.md").read_text()


def test_an_adapter_that_is_not_the_merged_model_is_refused(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(copy)  # and nobody merged it again
    assert publish.main([str(copy), "--to", REPO, "--base", "ada/start", "--dry-run"]) == 2
    assert "was not merged from" in capsys.readouterr().err
    assert not (copy / "publish").exists()


def test_an_adapter_on_a_folder_is_published_merged_unless_its_base_is_named(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main([str(run), "--to", REPO, "--dry-run"]) == 0
    assert "model.safetensors" in {name for name, _ in listing(run / "publish")}
    assert publish.main([str(run), "--to", REPO, "--dry-run", "--what", "adapter"]) == 2
    assert "name it with --base user/name" in capsys.readouterr().err


def test_no_path_of_this_machine_is_in_the_folder(run: Path) -> None:
    assert publish.main([str(run), "--to", REPO, "--dry-run"]) == 0
    told = [
        name
        for name, _ in listing(run / "publish")
        if str(run.parent).encode() in (run / "publish" / name).read_bytes()
    ]
    assert told == []


def test_the_command_publishes_by_what_the_environment_names(run: Path) -> None:
    with local_hub() as hub:
        answer = subprocess.run(
            [sys.executable, "-m", "training.publish", str(run), "--to", REPO],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
            env={
                **os.environ,
                "HF_ENDPOINT": hub.url,
                "HF_TOKEN": TOKEN,
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
            },
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        folder = run / "publish"
        assert hub.files(REPO) == {n: (folder / n).read_bytes() for n, _ in listing(folder)}
    assert TOKEN not in answer.stdout + answer.stderr
    assert f"published: {hub.url}/{REPO}/commit/" in answer.stdout
