"""What a language model is said to have sampled is what it sampled, with the right probability."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the train extra is not installed")

from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from eval.chat import ChatTokens, NoTurnEnd  # noqa: E402
from eval.generate import TransformersGenerate  # noqa: E402
from training.tokenizer import learn  # noqa: E402

# slow as a whole: transformers alone takes ten seconds to import
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow]
WORDS = ["stop warfarin", "keep aspirin and watch", "ask what the two do together"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return learn(WORDS, spoken=["warfarin"], seen=["aspirin"], skeletons=['{"ask":"'], merged=20)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def forward_logprobs(
    model: Any, context: list[int], ids: tuple[int, ...], temperature: float
) -> Any:
    with torch.no_grad():
        logits = model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1]
    logp = torch.log_softmax(logits / temperature, dim=-1)
    return logp.gather(1, torch.tensor(ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_agree_with_a_plain_forward_pass(
    model: Any, tokenizer: Any, temperature: float
) -> None:
    contexts = [tokenizer.encode(text) for text in WORDS]
    torch.manual_seed(1)
    generate = TransformersGenerate(model, tokenizer, temperature, max_new_tokens=12)
    for context, said in zip(contexts, generate(contexts), strict=True):
        expected = forward_logprobs(model, context, said.ids, temperature)
        assert torch.allclose(torch.tensor(said.logprobs), expected, atol=1e-4)


def test_a_hub_models_own_sampling_defaults_are_not_obeyed(model: Any, tokenizer: Any) -> None:
    model.generation_config.update(top_k=1, repetition_penalty=5.0, do_sample=True)
    try:
        torch.manual_seed(1)
        generate = TransformersGenerate(model, tokenizer, 1.0, max_new_tokens=12)
        context = tokenizer.encode(WORDS[0])
        said = generate([context] * 8)
        assert len({completion.ids for completion in said}) > 1
        expected = forward_logprobs(model, context, said[0].ids, 1.0)
        assert torch.allclose(torch.tensor(said[0].logprobs), expected, atol=1e-4)
    finally:
        model.generation_config.update(top_k=None, repetition_penalty=None, do_sample=None)


def test_an_answer_ends_with_its_end_token_or_is_called_truncated(
    model: Any, tokenizer: Any
) -> None:
    torch.manual_seed(2)
    generate = TransformersGenerate(model, tokenizer, 1.5, max_new_tokens=400)
    for said in generate([tokenizer.encode(text) for text in WORDS * 4]):
        ends = [i for i, token in enumerate(said.ids) if token == tokenizer.eos_token_id]
        assert ends == ([] if said.truncated else [len(said.ids) - 1])
        assert len(said.ids) == len(said.logprobs)


def test_greedy_is_the_same_in_one_batch_or_many(model: Any, tokenizer: Any) -> None:
    contexts = [tokenizer.encode(text) for text in WORDS]
    together = TransformersGenerate(model, tokenizer, 0.0, max_new_tokens=6)(contexts)
    apart = TransformersGenerate(model, tokenizer, 0.0, max_new_tokens=6, batch_size=1)(contexts)
    assert [c.ids for c in together] == [c.ids for c in apart]


@pytest.mark.parametrize("training", [True, False])
def test_generating_leaves_the_training_mode_as_it_was(
    model: Any, tokenizer: Any, training: bool
) -> None:
    model.train(training)
    TransformersGenerate(model, tokenizer, max_new_tokens=2)([tokenizer.encode("stop")])
    assert model.training is training
    model.eval()


def test_a_reply_tokenised_alone_continues_the_chat_exactly(tokenizer: Any) -> None:
    chat = ChatTokens(tokenizer)
    messages = [
        {"role": "system", "content": "Review."},
        {"role": "user", "content": "warfarin, aspirin"},
        {"role": "assistant", "content": '{"ask":"warfarin"}'},
        {"role": "user", "content": " severe\n"},
    ]
    grown = chat.prompt(messages[:2])
    grown += [*tokenizer.encode(messages[2]["content"]), chat.end]
    grown += chat.reply(messages[3]["content"])
    assert grown == chat.prompt(messages)


def test_a_template_that_ends_turns_with_another_token_is_refused(tokenizer: Any) -> None:
    chat = ChatTokens(tokenizer)
    chat._end_text = "<|im_end|>"  # as if the template used ChatML and the tokenizer did not
    with pytest.raises(NoTurnEnd, match="eos_token"):
        chat.reply("severe")
