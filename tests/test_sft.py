"""The warm start, run for real in miniature: what it learns from, what it writes, how it goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerState

from configs.loader import load
from env_server.contract import BadSplit, UnknownAgent, UnknownTask
from eval.dialogue import Limits, converse
from eval.door import LocalDoor, Request
from eval.generate import Completion
from training import dataset, flags, sft, tiny, watch
from training.answers_only import AnswersOnlyTrainer
from training.dataset import Mixture, NotEnoughEpisodes, collect
from training.run_folder import BadRun

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = pytest.mark.slow
MIXTURE = Mixture("polypharmacy", ("review_easy",), episodes=24)


@lru_cache(maxsize=1)
def start() -> str:
    return str(tiny.build(Path(mkdtemp()), "polypharmacy", ("review_easy",)))


def config(output: Path, **knobs: Any) -> sft.SftConfig:
    small: dict[str, Any] = {
        "init": start(),
        "style": "brief",
        "episodes": 24,
        "steps": 6,
        "batch": 4,
        "warmup": 1,
        "log_every": 1,
        "save_every": 2,
        "device": "cpu",
    }
    return sft.SftConfig(output=str(output), **{**small, **knobs})


def weights(model: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(model).state_dict()
    return loaded


# -- what is imitated -------------------------------------------------------------------------


def test_the_same_mixture_gives_the_same_conversations() -> None:
    assert collect(MIXTURE) == collect(MIXTURE)


@pytest.mark.parametrize("split", ["validation", "test", "test_unseen_pairs"])
def test_training_cannot_open_a_patient_it_is_judged_by(split: str) -> None:
    with pytest.raises(BadSplit, match="'train' only"):
        collect(replace(MIXTURE, split=split))


def test_the_noise_of_an_episode_is_one_of_the_shares_and_costs_score() -> None:
    examples = collect(replace(MIXTURE, episodes=200)).examples
    by_noise = {n: [e.score for e in examples if e.noise == n] for n in (0.0, 0.3, 1.0)}
    means = [sum(scores) / len(scores) for scores in by_noise.values()]
    assert means[0] > means[1] > means[2]


def test_only_conversations_that_score_enough_are_kept() -> None:
    kept = collect(replace(MIXTURE, min_score=0.8))
    assert len(kept.examples) == 24 and all(e.score >= 0.8 for e in kept.examples)
    assert kept.tried > 24 and kept.seed_to == kept.tried


def test_a_score_nobody_reaches_is_an_error_that_says_so() -> None:
    with pytest.raises(NotEnoughEpisodes, match=r"0 of 40 episodes score 1\.0"):
        collect(replace(MIXTURE, episodes=2, min_score=1.0))


def test_unknown_tasks_and_agents_are_named() -> None:
    with pytest.raises(UnknownTask, match="did you mean 'review_easy'"):
        collect(replace(MIXTURE, tasks=("review_esy",)))
    with pytest.raises(UnknownAgent, match="did you mean 'heuristic'"):
        collect(replace(MIXTURE, agents=("heuristik",)))


def test_two_tasks_take_turns_on_the_same_seeds() -> None:
    both = collect(replace(MIXTURE, tasks=("review_easy", "review_budgeted"), episodes=5))
    assert [(e.task[7:], e.seed) for e in both.examples] == [
        ("easy", 0), ("budgeted", 0), ("easy", 1), ("budgeted", 1), ("easy", 2),
    ]  # fmt: skip
    assert [t["seed_to"] for t in both.trained_on()] == [3, 3]


def test_the_dataset_is_written_with_its_card(tmp_path: Path) -> None:
    path = dataset.write(collect(MIXTURE), tmp_path)
    assert len(path.read_text().splitlines()) == 24
    card = (tmp_path / "README.md").read_text()
    assert "24 episodes" in card and "Split `train`, seeds 0 to 23" in card


def test_a_conversation_has_the_very_tokens_a_rollout_of_it_has() -> None:
    tokenizer = AutoTokenizer.from_pretrained(start())
    for example in collect(MIXTURE).examples:
        answers = iter([m["content"] for m in example.messages if m["role"] == "assistant"])

        def speak(contexts: list[list[int]], said: Any = answers) -> list[Completion]:
            ids = [*tokenizer.encode(next(said), add_special_tokens=False), tokenizer.eos_token_id]
            return [Completion(ids, [0.0] * len(ids), truncated=False)]

        request = Request(example.task, example.seed, "train")
        (played,) = converse(
            LocalDoor("polypharmacy"), [request], speak, tokenizer, Limits(), "brief"
        )
        chat = tokenizer.apply_chat_template(
            list(example.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        assert played.tokens is not None
        assert [*played.tokens.prompt_ids, *played.tokens.completion_ids] == chat["input_ids"]
        mask = [0] * len(played.tokens.prompt_ids) + list(played.tokens.mask)
        assert mask == chat["assistant_masks"]
        assert played.score == example.score


# -- the run ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> sft.SftConfig:
    ran = config(tmp_path_factory.mktemp("sft") / "run")
    sft.train(ran)
    return ran


def test_a_run_leaves_a_model_that_says_what_it_has_seen(finished: sft.SftConfig) -> None:
    run = Path(finished.output)
    said = json.loads((run / "model" / sft.ROUNDS).read_text())
    assert said["style"] == "brief"
    assert said["trained_on"] == [
        {"family": "polypharmacy", "task": "review_easy", "split": "train", "seed_from": 0, "seed_to": 24}
    ]  # fmt: skip
    assert AutoTokenizer.from_pretrained(run / "model").chat_template
    assert weights(run / "model")["lm_head.weight"].isfinite().all()


def test_the_loss_falls_and_every_step_is_in_the_journal(finished: sft.SftConfig) -> None:
    lines = watch.lines(Path(finished.output) / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3


def test_a_finished_run_is_not_run_again(finished: sft.SftConfig) -> None:
    def fail(stage: str, done: int, of: int, figures: Mapping[str, float]) -> None:
        raise AssertionError(f"{stage} ran again")

    assert sft.train(finished, fail) == Path(finished.output) / "model"


def test_a_folder_with_another_run_is_refused(finished: sft.SftConfig) -> None:
    with pytest.raises(BadRun, match=r"holds a run with steps = 6"):
        sft.train(replace(finished, steps=7))


def test_ctrl_c_saves_and_the_same_command_ends_up_with_the_same_weights(
    finished: sft.SftConfig, tmp_path: Path
) -> None:
    def interrupt(stage: str, done: int, of: int, figures: Mapping[str, float]) -> None:
        if (stage, done) == ("sft", 3):
            os.kill(os.getpid(), signal.SIGINT)

    stopped = replace(finished, output=str(tmp_path / "run"))
    with pytest.raises(watch.Interrupted, match=r"stopped at step [34] of 6.*same command"):
        sft.train(stopped, interrupt)
    model = sft.train(stopped)
    assert [line["step"] for line in watch.lines(tmp_path / "run" / "metrics.jsonl")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    never_stopped = weights(Path(finished.output) / "model")
    assert all(torch.equal(value, never_stopped[name]) for name, value in weights(model).items())


def test_a_checkpoint_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    for step, whole in ((2, True), (4, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert watch.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_checkpoint_whose_state_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((2, "{}"), (4, '{"global_st'), (6, "")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert watch.last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_kill_while_the_journal_is_trimmed_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    told = TrainerState(global_step=1, is_world_process_zero=True)
    resume = watch.Journal(path, "sft").on_train_begin
    with monkeypatch.context() as killed:
        killed.setattr(json, "dumps", _interrupted)
        with pytest.raises(InterruptedError):
            resume(None, told, None)  # type: ignore[arg-type]
    assert [line["step"] for line in watch.lines(path)] == [1, 2]
    resume(None, told, None)  # type: ignore[arg-type]
    assert path.read_text() == '{"step": 1}\n'


def _interrupted(*_: object) -> str:
    raise InterruptedError


# peft asks transformers by a name that transformers has since replaced
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_adapters_are_merged_into_a_plain_model(tmp_path: Path) -> None:
    model = sft.train(config(tmp_path / "run", lora_r=4, steps=3))
    assert not (model / "adapter_config.json").exists()
    before, after = weights(Path(start())), weights(model)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_scoring_the_answers_alone_gives_trls_own_loss(tmp_path: Path) -> None:
    ours, theirs = (
        sft.make_trainer(config(tmp_path / name), tmp_path / name, start(), collect(MIXTURE), kind)
        for name, kind in (("a", AnswersOnlyTrainer), ("b", None))
    )
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(4)])
    losses = [t.compute_loss(t.model, dict(batch)).item() for t in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_reading_adds_the_other_tokens_at_its_weight(tmp_path: Path) -> None:
    made = [
        sft.make_trainer(
            config(tmp_path / str(weight)),
            tmp_path / str(weight),
            start(),
            collect(MIXTURE),
            partial(AnswersOnlyTrainer, reading=weight),
        )
        for weight in (0.0, 0.5, 1.0)
    ]
    batch = made[0].data_collator([made[0].train_dataset[i] for i in range(4)])
    none, half, whole = (t.compute_loss(t.model, dict(batch)).item() for t in made)
    assert none < half < whole and half == pytest.approx((none + whole) / 2, rel=1e-5)


# -- what is said when it cannot run ----------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadRun, match=r"cannot write to .*file/run .*--output"):
        sft.train(sft.SftConfig(output=str(tmp_path / "file" / "run")))


def test_a_model_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match="cannot load model 'no/such-model'"):
        sft.train(config(tmp_path, init="no/such-model", episodes=1))


def test_conversations_that_do_not_fit_stop_the_run_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BadRun, match=r"of 24 conversations are longer than 40 tokens.*max_length"):
        sft.train(config(tmp_path, max_length=40))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        (["--steps", "0"], "steps is 0"),
        (["--noise", "[2]"], "noise holds 2"),
        (["--lr", "fast"], "lr is 'fast'"),
        (["--tasks", "[]"], "tasks is empty"),
        (["--reading", "2"], "reading is 2"),
    ],
)
def test_a_knob_out_of_range_is_named(
    knobs: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(["--config", "configs/sft/demo.yaml", *knobs]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("preset", sorted(Path("configs/sft").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_can_be_read_and_says_what_it_is_for(preset: Path) -> None:
    assert load(preset, sft.SftConfig).steps > 0
    assert preset.read_text().startswith("# ")


def test_every_knob_has_its_sentence() -> None:
    assert list(flags.sentences(sft.SftConfig)) == list(sft.SftConfig.__slots__)


def test_help_says_what_holds_without_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text("episodes: 17\n")
    told = " ".join(flags.parser(sft.SftConfig, "p", "d", str(path)).format_help().split())
    assert "Conversations to collect. [17]" in told  # the file's
    assert (
        'Agents to imitate, one drawn for every episode. [["heuristic"]]' in told
    )  # the knob's own
    assert "flags win over it (default: " in told
    path.write_text("episodes: [")  # not YAML: said when it is read, not by --help
    assert "[6400]" in flags.parser(sft.SftConfig, "p", "d", str(path)).format_help()
