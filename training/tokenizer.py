"""A small vocabulary in which a whole decision is a handful of tokens, and no text is unsayable.

Byte-level BPE learned from an environment's own words, with each name and each fixed stretch of an
answer as one token. Knows no family, no patient and no model: it is given texts and names.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from env_server.contract import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL = (PAD, END, *ROLES)

# every message opens with its role's token, so no text ever merges across two messages: the ids of a
# conversation are the ids of its messages, one after another, however it was built up
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}"
    "{%- if message['weight'] is defined and message['weight'] == 0 -%}"  # shown, not learned
    "{{- message['content'] + '<|end|>' -}}"
    "{%- else -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- endif -%}"
    "{%- else -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

# where an answer begins and ends, for servers that read it back: without it they assume the template
# that models of the same architecture usually have, and repeat the whole prompt before the answer
RESPONSE_TEMPLATE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|assistant|>",
    "fields": {"content": {"close": END, "content": "text"}},
}

# words keep the blank before them, as in most vocabularies; digits go in pairs at most
_PIECES = r" ?[A-Za-z_]+| ?[0-9]{1,2}| ?[^\sA-Za-z_0-9]+|\s+"
_NUMBER = r"(?<=[:,\[])-?[0-9][0-9.eE+-]*"
_WORD = re.compile(r"[A-Za-z0-9_]{2,}")


def learn(
    texts: Iterable[str],
    spoken: Iterable[str],
    seen: Iterable[str],
    skeletons: Iterable[str],
    merged: int,
) -> PreTrainedTokenizerFast:
    """A chat tokenizer with one token for each name and each skeleton, and `merged` BPE merges.

    `spoken` names stand in answers too: they are the same token wherever they stand, so that naming
    a drug is copying it. `seen` names are only read, and keep the blank before them. The same inputs
    give the same bytes, and `decode(encode(text)) == text` for every text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    said = sorted({name for name in spoken if _WORD.fullmatch(name) and name.isascii()})
    read = [f" {name}" for name in sorted(set(seen) - set(said)) if _readable(name, said)]
    fixed = list(dict.fromkeys(piece for piece in skeletons if piece.isascii()))
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + 256 + merged,
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_glue(texts, [*fixed, *said, *read]), trainer)
    core.add_tokens([AddedToken(text, normalized=False) for text in [*fixed, *read]])
    core.add_tokens([AddedToken(name, normalized=False, single_word=True) for name in said])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        response_template=RESPONSE_TEMPLATE,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _readable(name: str, said: Sequence[str]) -> bool:
    # the leftmost match wins: " insulin" as a token would hide `insulin_glargine` behind a blank
    return (
        bool(_WORD.fullmatch(name)) and name.isascii() and not any(s.startswith(name) for s in said)
    )


def _glue(texts: Iterable[str], whole: Sequence[str]) -> Iterable[str]:
    """What lies between the words that are whole tokens already: the part BPE has to learn."""
    if not whole:
        yield from texts
        return
    longest_first = sorted(whole, key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, longest_first)))
    for text in texts:
        yield from (piece for piece in known.split(text) if piece)


def open_names(actions: Iterable[JsonObject], schema: JsonObject) -> tuple[str, ...]:
    """Strings that actions hold and the schema does not fix: drug ids, targets, hypotheses."""
    fixed = set(_fixed(schema))
    found = {text for action in actions for text in _strings(action)}
    return tuple(sorted(found - fixed))


def skeletons(spelled: Iterable[str], names: Sequence[str], at_most: int = 64) -> tuple[str, ...]:
    """The fixed stretches of spelled answers, between their names and numbers; most frequent first."""
    quoted = "|".join(re.escape(n) for n in sorted(names, key=len, reverse=True))
    between = re.compile(rf'(?<=")(?:{quoted})(?=")|{_NUMBER}' if quoted else _NUMBER)
    counts = Counter(piece for text in spelled for piece in between.split(text) if len(piece) > 1)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(piece for piece, _ in ranked[:at_most] if piece.isascii())


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _strings(inner)


def _fixed(schema: Any) -> Iterable[str]:
    """Every `const` and `enum` string of a JSON schema."""
    if isinstance(schema, Mapping):
        for key, inner in schema.items():
            yield from _strings(inner) if key in ("const", "enum") else _fixed(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _fixed(inner)


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer's whole state as canonical JSON: equal strings, equal tokenizers."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps([state, tokenizer.chat_template], sort_keys=True)
