"""A language model at the table: a real one, small and untrained, from its folder to its row."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from env_server import registry  # noqa: E402
from eval.compare import compare  # noqa: E402
from eval.language import LanguagePlayer, Speech, fingerprint, read_speech  # noqa: E402
from eval.record import RunDiffers, read_episodes  # noqa: E402
from eval.replay import replay  # noqa: E402
from eval.roster import Options  # noqa: E402
from prompts.history import Dialogue  # noqa: E402
from training.tokenizer import learn  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
FAMILY = registry.get("polypharmacy")
TASK = "review_easy"


def save(folder: Path, seed: int = 0) -> Path:
    """A model with two small layers and words learned from four patients."""
    looks = (FAMILY.begin(TASK, s, "train").observe().to_json() for s in range(4))
    talks = [Dialogue.begin(FAMILY, TASK, look, "brief").messages for look in looks]
    words = [message["content"] for messages in talks for message in messages]
    tokenizer = learn(words, spoken=["warfarin"], seen=[], skeletons=[], merged=300)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "rounds.json").write_text('{"style": "brief", "answer_tokens": 6}')
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"))


def test_a_model_plays_the_same_patients_as_the_others_and_its_episodes_play_again(
    model: Path, tmp_path: Path
):
    agents = ["heuristic", f"untrained=local:{model}"]
    rows = compare(FAMILY, [TASK], agents, episodes=5, options=Options(batch=3), run=tmp_path / "r")
    assert [(r.agent, r.role, r.n) for r in rows] == [
        ("heuristic", "heuristic", 5),
        ("untrained", "model", 5),
    ]
    own = rows[1]
    assert own.tokens and own.refusal_share and own.seconds
    assert own.diff is not None and own.diff < 0
    assert set(replay(tmp_path / "r" / "episodes.jsonl")) == {None}


def test_greedy_play_is_the_same_twice_and_whatever_the_batch(model: Path):
    def scores(batch: int) -> list[tuple[int, float, Any]]:
        player = LanguagePlayer("m", model, Options(batch=batch))
        played = player.play(FAMILY, TASK, "test", range(4))
        return [(t.seed, t.score, [turn.text for turn in t.turns]) for t in played]

    assert scores(4) == scores(4) == scores(1)


def test_an_interrupted_run_is_not_continued_with_other_weights(model: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    asked: dict[str, Any] = {"episodes": 2, "run": tmp_path / "r"}
    compare(FAMILY, [TASK], [f"m=local:{folder}"], **asked)
    lines = list(read_episodes(tmp_path / "r" / "episodes.jsonl"))
    assert all(t.tokens is not None for t in lines)
    save(folder, seed=1)
    assert fingerprint(folder) != fingerprint(model)
    with pytest.raises(RunDiffers, match="the identity of m"):
        compare(FAMILY, [TASK], [f"m=local:{folder}"], resume=True, **asked)


def test_an_adapter_plays_on_the_base_it_names(model: Path, tmp_path: Path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    adapted.save_pretrained(tmp_path / "adapter")
    (row,) = compare(FAMILY, [TASK], [f"lora=adapter:{tmp_path}"], episodes=2)
    assert (row.n, row.note) == (2, "")
    assert row.tokens


def test_a_patient_too_long_for_the_model_is_noted(model: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "rounds.json").write_text('{"style": "brief", "context_tokens": 40}')
    (row,) = compare(FAMILY, [TASK], [f"m=local:{folder}"], episodes=2)
    assert row.note == "2 patients do not fit the model's context"


def test_how_a_model_is_spoken_to_is_read_beside_it(tmp_path: Path):
    assert read_speech(tmp_path) is None
    told = {"style": "brief", "answer_tokens": 12, "trained_on": []}
    (tmp_path / "rounds.json").write_text(json.dumps(told))
    assert read_speech(tmp_path) == replace(Speech(), style="brief", answer_tokens=12)
