"""What must not leave this machine in a text: keys, tokens, paths and hosts.

Knows patterns alone; which files are written anew and which are refused is `publish_folder`'s
business. A pattern that is too eager costs a word, one that is too shy costs a key.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

KEYS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("hugging face token", re.compile(r"(?<![A-Za-z0-9_])(?:hf|api_org)_[A-Za-z0-9]{16,}")),
    ("api key", re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}")),
    ("github token", re.compile(r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_)[A-Za-z0-9_]{20,}")),
    (
        "wandb key",
        re.compile(r"(?i)(?<=wandb_api_key[=: ])\s*[\"']?[0-9a-f]{40}|wandb_v\d_\w{20,}"),
    ),
    ("aws key", re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])")),
    ("bearer token", re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{16,}")),
    (
        "private key",
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
        ),
    ),
    ("user and password", re.compile(r"(?<=://)[^\s/@:\"']+:[^\s/@\"']+(?=@)")),
)
# a path has at least two parts and begins where no word, address or relative path goes on
_ROOTS = "home|Users|root|opt|mnt|srv|tmp|var|data|work|workspace|media|private|scratch|gpfs|lustre|etc|usr"
_UNIX = rf"(?<![\w.:/~<\-])/(?:{_ROOTS})(?:/[^\s\"'`,;:<>|()\[\]{{}}\\]+)+"
PLACES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("path", re.compile(r"file:/{2,3}[^\s\"'`,;<>]+")),
    ("path", re.compile(_UNIX)),
    ("path", re.compile(r"(?<!\w)~/[^\s\"'`,;:<>|]+")),
    ("path", re.compile(r"(?<![A-Za-z])[A-Za-z]:\\+(?:[^\s\"'`<>|\\]+\\*)+")),
    ("host", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]|-\w)")),
    ("host", re.compile(r"(?<![\w.-])localhost:\d+")),
    (
        "host",
        re.compile(r"(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:local|internal|lan|corp|intranet)(?!\w)"),
    ),
)


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that was taken out of a file, or must be: what kind, where. Never the thing itself."""

    kind: str
    line: int
    start: str  # its first characters, as much as tells which it was and not more


def redact(text: str, hosts: Iterable[str] = ()) -> tuple[str, list[Removed]]:
    """The text with every key, path and host replaced by `[kind]`, and a list of what was there.

    hosts: names of machines, this one's for instance; short ones are left alone.
    """
    found: list[Removed] = []
    for kind, pattern in (*KEYS, *PLACES, *_named(hosts)):
        found += _listed(kind, pattern, text)
        text = pattern.sub(f"[{kind}]", text)
    return text, sorted(found, key=lambda one: one.line)


def keys_in(text: str) -> list[Removed]:
    """Keys and tokens alone: what no file may hold, whatever it is."""
    return [one for kind, pattern in KEYS for one in _listed(kind, pattern, text)]


def this_host() -> tuple[str, ...]:
    """The names that this machine goes by."""
    name = socket.gethostname()
    return tuple(dict.fromkeys((name, name.split(".")[0])))


def _named(hosts: Iterable[str]) -> Iterable[tuple[str, re.Pattern[str]]]:
    for name in hosts:
        if len(name) >= 4 and name not in {"localhost", "main", "linux"}:
            yield "host", re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")


def _listed(kind: str, pattern: re.Pattern[str], text: str) -> list[Removed]:
    return [
        Removed(kind, text.count("\n", 0, match.start()) + 1, f"{match[0].strip()[:3]}…")
        for match in pattern.finditer(text)
    ]
