"""A conversation as token ids, grown turn by turn without ever tokenising the model's words again.

Knows chat templates; nothing of environments or models. Text that a model wrote stays the ids it
sampled: tokenised anew it could become other ids, whose probabilities nobody sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_ANSWER = "\u2402answer\u2403"  # stands for the model's words; no template or prompt contains it

Message = Mapping[str, str]


class NoTurnEnd(ValueError):
    """The tokenizer's chat template does not end an assistant's turn with its own end token."""


class ChatTokens:
    """Token ids of a chat under one tokenizer's template.

    `options` go to the template (`enable_thinking=False` for models that think by default).
    """

    def __init__(self, tokenizer: Any, options: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._options = dict(options or {})
        self.end = int(tokenizer.eos_token_id)
        self._end_text = tokenizer.convert_ids_to_tokens(self.end)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The opening messages, up to where the model begins to answer."""
        return self._encode(self._render(messages))

    def reply(self, text: str) -> list[int]:
        """What stands between the end of one answer and the beginning of the next.

        Rendered behind a placeholder answer and cut there, so that whatever the template puts
        between turns is put here too. Raises NoTurnEnd.
        """
        rendered = self._render(
            [
                {"role": "user", "content": ""},
                {"role": "assistant", "content": _ANSWER},
                {"role": "user", "content": text},
            ]
        )
        _, _, after = rendered.partition(_ANSWER)
        if not after.startswith(self._end_text):
            raise NoTurnEnd(
                f"the chat template goes on with {after[:20]!r} where an answer ends; expected the "
                f"end token {self._end_text!r}: set the tokenizer's eos_token to the template's"
            )
        return self._encode(after.removeprefix(self._end_text))

    def text(self, ids: Sequence[int]) -> str:
        """The words behind sampled ids (without the token that ended them)."""
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _render(self, messages: Sequence[Message]) -> str:
        text = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **self._options,
        )
        return str(text)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))
