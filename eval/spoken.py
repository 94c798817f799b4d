"""What a language model read and wrote in one episode, token by token, as text again.

Knows a tokenizer's file and the mask of a trajectory; nothing of models, and it loads none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from eval.trajectory import Tokens

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True)
class Passage:
    """Neighbouring tokens of one origin: `sampled` by the model (mask 1), or put there (mask 0).

    logprob: the sum over its tokens; 0.0 where the model did not sample them.
    """

    text: str
    sampled: bool
    tokens: int
    logprob: float


def passages(tokens: Tokens, decode: Decode) -> tuple[Passage, ...]:
    """The prompt, then everything after it, cut wherever the mask changes."""
    prompt = Passage(decode(tokens.prompt_ids), False, len(tokens.prompt_ids), 0.0)
    found = [prompt]
    after = list(zip(tokens.mask, tokens.completion_ids, tokens.logprobs, strict=True))
    for sampled, run in groupby(after, key=lambda token: token[0]):
        _, ids, logprobs = zip(*run, strict=True)
        found.append(Passage(decode(ids), bool(sampled), len(ids), sum(logprobs)))
    return tuple(found)


@lru_cache(maxsize=8)
def decoder(folder: Path) -> Decode | None:
    """How the model in `folder` spells its ids; None without its tokenizer.json or the library."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError:  # comes with the `train` extra
        return None
    spelling = Tokenizer.from_file(str(path))
    return lambda ids: str(spelling.decode(list(ids), skip_special_tokens=False))
