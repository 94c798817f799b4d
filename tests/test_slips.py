"""A warm start that shows what follows a refused answer, and never teaches the refused answer itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from configs.loader import load  # noqa: E402
from env_server import registry  # noqa: E402
from env_server.contract import Refusal  # noqa: E402
from training import sft, tiny  # noqa: E402
from training.answers_only import AnswersOnlyTrainer, answers  # noqa: E402
from training.dataset import Collection, Example, Mixture, collect  # noqa: E402
from training.run_folder import BadRun  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = pytest.mark.slow
STEADY = Mixture("polypharmacy", ("review_budgeted",), episodes=40, agents=("reference",))
SLIPPING = replace(STEADY, slips=(0.3,))


@pytest.fixture(scope="module")
def collection() -> Collection:
    return collect(SLIPPING)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(
        tiny.build(tmp_path_factory.mktemp("tiny") / "m", "polypharmacy", ("review_budgeted",))
    )


def played_again(example: Example) -> list[bool]:
    """Whether each of its actions was refused."""
    family = registry.get(example.family)
    episode = family.begin(example.task, example.seed, example.split)
    refused = []
    for payload in example.actions:
        action = family.action_from_json(payload)
        assert not isinstance(action, Refusal)
        refused.append(episode.step(action).refusal is not None)
    assert episode.score() == example.score
    return refused


def test_the_answers_marked_are_those_the_environment_refuses(collection: Collection) -> None:
    marked = 0
    for example in collection.examples:
        said = [m for m in example.messages if m["role"] == "assistant"]
        assert [m.get("weight") == 0 for m in said] == played_again(example)
        marked += sum("weight" in m for m in said)
    assert marked > 10


def test_every_kind_of_slip_occurs(collection: Collection) -> None:
    repeats, strange = 0, 0
    for example in collection.examples:
        for at, (action, wrong) in enumerate(
            zip(example.actions, played_again(example), strict=True)
        ):
            repeats += wrong and action in example.actions[:at]
            strange += wrong and action not in example.actions[:at]
    assert repeats and strange


def test_without_slips_the_conversations_are_what_they_were(collection: Collection) -> None:
    steady = collect(STEADY).examples
    assert not any("weight" in m for e in steady for m in e.messages)
    assert [e.seed for e in steady] == [e.seed for e in collection.examples]


def learned(trainer: Any) -> list[str]:
    """The answers that have labels, of every conversation."""
    told = []
    for row in trainer.train_dataset:
        kept = [i for i, m in zip(row["input_ids"], row["labels"], strict=True) if m != -100]
        told.append(trainer.processing_class.decode(kept))
    return told


def trainer(folder: Path, start: str, collection: Collection, reading: float) -> Any:
    config = sft.SftConfig(
        output=str(folder), tasks=("review_budgeted",), steps=1, batch=4, device="cpu"
    )
    kind = partial(AnswersOnlyTrainer, reading=reading)
    return sft.make_trainer(config, folder, start, collection, kind)


def test_a_slip_has_no_label_and_weighs_nothing(
    collection: Collection, start: str, tmp_path: Path
) -> None:
    made = trainer(tmp_path / "a", start, collection, 0.5)
    for example, text in zip(collection.examples, learned(made), strict=True):
        said = [m for m in example.messages if m["role"] == "assistant"]
        wanted = "".join(m["content"] + "<|end|>" for m in said if "weight" not in m)
        assert text == wanted

    # a slip of other words, at the same place, changes nothing of the loss of what precedes it
    batch = made.data_collator([made.train_dataset[i] for i in range(4)])
    spoken = answers(batch["input_ids"], made._roles)
    slipped = spoken & (batch["labels"] == -100)
    assert slipped.any()
    logits_seen = _scored(made, batch)
    assert logits_seen == int((batch["attention_mask"][:, 1:].bool() & ~slipped[:, 1:]).sum())


def _scored(made: Any, batch: Mapping[str, Any]) -> int:
    """Positions at which the loss looks at the vocabulary."""
    _, told = made.compute_loss(made.model, dict(batch), return_outputs=True)
    return len(told["logits"])


def test_answers_are_what_the_assistant_says_up_to_the_next_role() -> None:
    system, user, assistant, end = 1, 2, 3, 9
    ids = torch.tensor([[system, 5, user, 6, assistant, 7, 8, end, user, 4, assistant, 7, 0]])
    said = [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    assert answers(ids, (system, user, assistant)).int().tolist() == [said]


def test_slips_are_for_models_built_here(tmp_path: Path) -> None:
    asked = {"output": str(tmp_path / "run"), "init": "no/model", "slips": [0.1], "reading": 0.0}
    config = load(Path("configs/sft/demo.yaml"), sft.SftConfig, {**asked, "episodes": 2})
    with pytest.raises(BadRun, match=r"slips = \(0.1,\) needs a model built here"):
        sft._kind(config)


@pytest.mark.parametrize("share", ["[1]", "[-0.1]"])
def test_a_share_out_of_range_is_named(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(["--config", "configs/sft/demo.yaml", "--slips", share]) == 2
    assert "slips holds" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["runs/none/model", "./none", "/none/model"])
def test_a_folder_that_is_not_there_is_said_to_be_one(start: str) -> None:
    with pytest.raises(BadRun, match=r"there is no such folder.*python -m training\.sft"):
        sft.load_start(start, lora=False, cpu=True)
