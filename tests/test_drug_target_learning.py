"""What a model may learn target validation from, and that its presets hold together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the train extra is not installed")

from configs.loader import load
from env_server import registry
from env_server.contract import BadSplit
from eval import transcript
from eval.dialogue import Limits
from training import dataset, demo
from training.dataset import Mixture, collect
from training.grpo_settings import parse
from training.reinforce_settings import ReinforceConfig
from training.sft import SftConfig
from training.tiny import size, vocabulary

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
CONFIGS = Path(demo.CONFIGS)
TASK = "target_medium"
FAMILY = registry.get("drug_target")
MIXTURE = Mixture("drug_target", (TASK,), 40, ("voi_binned",), (0.0, 0.3))


@pytest.fixture(scope="module")
def traces() -> dataset.Collection:
    return collect(MIXTURE)


def genes(split: str) -> set[str]:
    seen: list[Any] = [FAMILY.begin(TASK, seed, split).observe() for seed in range(40)]
    return {one.about.target_gene for one in seen}


@pytest.mark.parametrize("split", [s for s in FAMILY.tasks[TASK].splits if s != "train"])
def test_nothing_but_train_is_imitated(split: str) -> None:
    with pytest.raises(BadSplit, match="train"):
        collect(replace(MIXTURE, split=split))


def test_traces_to_imitate_show_no_held_out_gene_or_cancer(traces: dataset.Collection) -> None:
    held_out = genes("test_targets")
    assert held_out
    assert not held_out & genes("train")
    opened = [e.messages[1]["content"].split("\n")[0] for e in traces.examples]
    assert not [line for line in opened if line.split()[0] in held_out]
    assert not [line for line in opened if "glioblastoma" in line or "pancreatic" in line]


def test_an_action_is_a_few_tokens_and_an_episode_fits_its_context(
    traces: dataset.Collection,
) -> None:
    words = vocabulary(FAMILY, (TASK,), size("tiny"))
    said = [m["content"] for e in traces.examples for m in e.messages if m["role"] == "assistant"]
    assert max(len(words.encode(text)) for text in said) < 12
    limits = Limits(*_caps())
    for example in traces.examples:
        told = words.apply_chat_template(list(example.messages), tokenize=True)["input_ids"]
        assert len(told) < limits.context_tokens


def _caps() -> tuple[int, int]:
    settings, _ = parse(["--config", str(CONFIGS / "grpo" / "drug_target.yaml")])
    return settings.answer_tokens, settings.context_tokens


def test_the_presets_of_the_two_stages_fit_each_other() -> None:
    warm = load(CONFIGS / "sft" / "drug_target.yaml", SftConfig, {})
    settings, _ = parse(["--config", str(CONFIGS / "grpo" / "drug_target.yaml")])
    assert settings.model == f"{warm.output}/model"
    assert (settings.family, tuple(settings.tasks)) == (warm.family, warm.tasks)
    assert set(warm.agents) <= set(FAMILY.agents)


def test_the_pipeline_takes_a_tasks_or_familys_own_presets_for_the_embedded_model() -> None:
    own = demo.suited(demo.TINY, "drug_target", "target_medium")
    assert (own.sft, own.grpo, own.init) == (
        "sft/drug_target.yaml",
        "grpo/drug_target.yaml",
        "tiny",
    )
    assert demo.suited(demo.TINY, "polypharmacy", "review_easy") == demo.TINY
    long = demo.suited(demo.TINY, "polypharmacy", "complex_tradeoff")
    assert long.grpo == "grpo/demo.complex_tradeoff.yaml"
    on_gpu = demo.ON_GPU[0][1]
    assert demo.suited(on_gpu, "drug_target", "target_medium") == on_gpu
    assert demo.suited(on_gpu, "polypharmacy", "complex_tradeoff") == on_gpu


@pytest.mark.parametrize(
    "path", sorted((CONFIGS / "sft").glob("demo.*.yaml")), ids=lambda p: p.stem
)
def test_a_tasks_own_presets_are_a_pair_about_that_task(path: Path) -> None:
    task = path.stem.removeprefix("demo.")
    warm = load(path, SftConfig, {})
    settings, config = parse(["--config", str(CONFIGS / "grpo" / path.name)])
    assert warm.tasks == tuple(settings.tasks) == (task,)
    assert settings.model == f"{warm.output}/model"
    assert config.per_device_train_batch_size % config.num_generations == 0


def test_the_classical_preset_names_what_the_family_has() -> None:
    config = load(CONFIGS / "reinforce" / "best.target_medium.yaml", ReinforceConfig, {})
    assert FAMILY.encoding(config.task, config.encoding).n_actions > 60
    assert set(config.imitate) <= set(FAMILY.agents)


def test_a_viewer_finds_the_latest_step_and_at_the_end_what_was_hidden(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = tmp_path / "step.json"
    asked = ["--family", "drug_target", "--agent", "heuristic", "--tasks", TASK]
    assert transcript.main([*asked, "--live", str(live)]) == 0
    told = json.loads(live.read_text("utf-8"))
    assert (told["done"], told["step"]) == (True, len(told["rewards"]))
    assert told["observation"]["outcome"]["right_decision"] in ("go", "no_go")
    assert capsys.readouterr().out.startswith(f"[START] task={TASK} env=drug_target")
