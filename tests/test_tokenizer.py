"""A tokenizer in which decisions are short, names are whole, and every text survives."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data.polypharmacy import tables
from env_server.envs.polypharmacy.actions import FINISH, ReviewAction, intervene, query
from eval.chat import ChatTokens
from prompts.parse import spell
from training import tiny
from training.dataset import Example, Mixture, collect
from training.tokenizer import END, learn, open_names, skeletons

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = pytest.mark.slow
TASK = "review_easy"


@lru_cache(maxsize=1)
def built() -> Path:
    return tiny.build(Path(mkdtemp()), "polypharmacy", (TASK,), seed=3)


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(built())


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    # seeds the vocabulary has not read
    return collect(Mixture("polypharmacy", (TASK,), episodes=120, seed_from=50_000)).examples


def ids(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False))


@given(st.text())
def test_any_text_encodes_and_decodes_exactly(text: str) -> None:
    assert tokenizer().decode(ids(text)) == text


@given(
    st.lists(st.sampled_from([" ", "  ", "\n", "warfarin", "é", END, '"}', " bleeding", "12", "x"]))
)
def test_texts_around_whole_tokens_survive_too(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert tokenizer().decode(ids(text)) == text


@pytest.mark.parametrize(
    ("action", "at_most"),
    [
        (FINISH, 1),
        (query("ibuprofen", "warfarin"), 5),
        (intervene("warfarin", "stop"), 3),
        (intervene("warfarin", "dose_reduce"), 3),
        (intervene("warfarin", "add_monitoring"), 3),
        (intervene("warfarin", "substitute"), 3),
        (intervene("warfarin", "substitute", "apixaban"), 5),
    ],
)
def test_a_whole_decision_is_a_handful_of_tokens(action: ReviewAction, at_most: int) -> None:
    assert len(ids(spell(action))) <= at_most


def test_a_drug_is_the_same_single_token_in_the_list_and_in_the_answer() -> None:
    core = [drug.drug_id for drug in tables.load().formulary("core")]
    (mark,) = {len(ids(drug)) for drug in core}
    assert mark == 1
    for drug in core:
        assert ids(drug)[0] in ids(f"set bleeding {drug} other")
        assert ids(drug)[0] in ids(f'"{drug}"')


def test_an_easy_conversation_takes_fewer_than_180_tokens() -> None:
    lengths = [len(whole(example)) for example in examples()]
    assert sum(lengths) / len(lengths) < 180
    assert max(lengths) < 500


def whole(example: Example) -> list[int]:
    chat = tokenizer().apply_chat_template(list(example.messages), return_dict=True)
    return list(chat["input_ids"])


def test_ids_appended_turn_by_turn_equal_the_whole_chat_tokenised() -> None:
    chat = ChatTokens(tokenizer())
    for example in examples():
        opening, rest = example.messages[:2], example.messages[2:]
        grown = chat.prompt(opening)
        for message in rest:
            if message["role"] == "assistant":
                grown += [*ids(message["content"]), chat.end]
            else:
                grown += chat.reply(message["content"])
        assert grown == whole(example)


@given(st.text(), st.text())
def test_no_text_merges_across_two_messages(told: str, said: str) -> None:
    messages = [{"role": "user", "content": told}, {"role": "assistant", "content": said}]
    chat = list(tokenizer().apply_chat_template(messages, return_dict=True)["input_ids"])
    assert chat == ids("<|user|>") + ids(told) + ids("<|assistant|>") + ids(said) + ids(END)


def test_the_assistant_mask_covers_each_answer_and_its_end_and_nothing_else() -> None:
    for example in examples()[:40]:
        chat = tokenizer().apply_chat_template(
            list(example.messages), return_dict=True, return_assistant_tokens_mask=True
        )
        masked = [i for i, m in zip(chat["input_ids"], chat["assistant_masks"], strict=True) if m]
        answers = [m["content"] for m in example.messages if m["role"] == "assistant"]
        assert masked == [token for answer in answers for token in [*ids(answer), *ids(END)]]


def test_the_same_arguments_build_the_same_bytes(tmp_path: Path) -> None:
    again = tiny.build(tmp_path, "polypharmacy", (TASK,), seed=3)
    for file in sorted(path.name for path in built().iterdir()):
        assert (again / file).read_bytes() == (built() / file).read_bytes(), file


def test_another_seed_gives_other_weights_and_the_same_words(tmp_path: Path) -> None:
    other = tiny.build(tmp_path, "polypharmacy", (TASK,), seed=4)
    assert (other / "tokenizer.json").read_bytes() == (built() / "tokenizer.json").read_bytes()
    assert (other / "model.safetensors").read_bytes() != (
        built() / "model.safetensors"
    ).read_bytes()


def test_an_unknown_size_names_the_nearest() -> None:
    with pytest.raises(tiny.UnknownSize, match="did you mean '100m'"):
        tiny.size("100M")


def test_names_and_skeletons_come_from_any_schema_and_any_answers() -> None:
    schema = {"oneOf": [{"properties": {"do": {"const": "pull"}, "arm": {"type": "string"}}}]}
    actions = [
        {"do": "pull", "arm": "left", "times": 3},
        {"do": "pull", "arm": "right", "times": 14},
    ]
    spelled = ['{"do":"pull","arm":"left","times":3}', '{"do":"pull","arm":"right","times":14}']
    names = open_names(actions, schema)
    assert names == ("left", "right")
    assert skeletons(spelled, names) == ('","times":', '{"do":"pull","arm":"')


def test_a_family_without_names_still_gets_a_tokenizer() -> None:
    bare = learn(["a b c a b"], spoken=(), seen=(), skeletons=(), merged=8)
    assert bare.decode(bare.encode("unseen ☃", add_special_tokens=False)) == "unseen ☃"
