"""The folder that goes to the Hub: put together from a run, cleaned of keys and paths, searched once more.

Weights and tokenizer as they are, records and traces redacted. Knows files; nothing of the network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from env_server.contract import RoundsError, canonical
from training import model_card
from training.evaluation import Evaluation
from training.redaction import Removed, keys_in, redact, this_host

FOLDER = "publish"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# words of a model: changing a byte would change what it reads, so a key in them refuses the folder
VERBATIM = ("tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja")
TOKENIZER = (
    *VERBATIM,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)
ADAPTER_CONFIG = "adapter_config.json"
_HEADER = 8  # a safetensors file begins with the length of its JSON header


class NoSuchRun(RoundsError, FileNotFoundError):
    """The folder holds no finished run."""

    __str__ = Exception.__str__


class Leak(RoundsError, ValueError):
    """The folder holds a key that cannot be taken out without changing the model."""


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run on disk. adapter: its LoRA weights, None where all weights were trained."""

    folder: Path
    model: Path
    adapter: Path | None
    config: Mapping[str, Any]
    record: Mapping[str, Any]

    @property
    def base(self) -> str | None:
        """What the adapter was trained on, as its config names it: a folder or a Hub id."""
        if self.adapter is None:
            return None
        named = json.loads((self.adapter / ADAPTER_CONFIG).read_text("utf-8"))
        return str(named.get("base_model_name_or_path") or "") or None


@dataclass(frozen=True, slots=True)
class Redaction:
    """Something taken out of a file of the folder."""

    file: str
    removed: Removed

    def __str__(self) -> str:
        return f"{self.file}:{self.removed.line}: {self.removed.kind} ({self.removed.start})"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The folder, what lies in it (path, bytes), and what was taken out."""

    folder: Path
    files: tuple[tuple[str, int], ...]
    redactions: tuple[Redaction, ...]


def find_run(given: Path) -> Run:
    """The run in this folder, or in its grpo/ as `make run` leaves it. Raises NoSuchRun."""
    for folder in (given, given / "grpo"):
        if (folder / "model" / "config.json").is_file():
            break
    else:
        state = "has no model yet: let its training finish" if given.is_dir() else "is no folder"
        raise NoSuchRun(
            f"{given} {state}. A run is what training.sft, training.grpo or training.demo leave, like runs/demo"
        )
    adapters = [folder / name for name in ("best", "adapter")]
    return Run(
        folder=folder,
        model=folder / "model",
        adapter=next((one for one in adapters if (one / ADAPTER_CONFIG).is_file()), None),
        config=_config(folder),
        record=_json(folder / "model" / "rounds.json"),
    )


def prepare(
    run: Run,
    model: model_card.Published,
    found: Evaluation,
    traces: int = 20,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Build <run>/publish anew and say what is in it. Raises Leak, and leaves no folder then."""
    half, folder = run.folder / f"{FOLDER}.part", run.folder / FOLDER
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    say("copying weights and tokenizer")
    _model_files(run, model, half)
    _records(run, found, half)
    _traces(run, half, traces)
    for name, text in model_card.eval_results(model, found).items():
        _put(half / ".eval_results" / name, text)
    model_card.draw_curve(
        half / model_card.CURVE,
        _lines(run.folder / "metrics.jsonl"),
        _lines(run.folder / "validation.jsonl"),
    )
    _put(half / "README.md", model_card.card(model, found))
    say("looking for keys, paths and hosts")
    redactions = _clean(half)
    try:
        refuse_leaks(half)
    except Leak:
        shutil.rmtree(half)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    half.rename(folder)
    return Prepared(folder, tuple(listing(folder)), tuple(redactions))


def listing(folder: Path) -> Iterable[tuple[str, int]]:
    """Every file by its path in the folder, with its size."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.stat().st_size


def refuse_leaks(folder: Path) -> None:
    """Search every file once more, headers of weights and pictures included. Raises Leak."""
    found = [
        Redaction(path.relative_to(folder).as_posix(), one)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        for one in keys_in(_searchable(path))
    ]
    if found:
        raise Leak(
            f"{len(found)} keys in files that cannot be rewritten: {'; '.join(map(str, found[:5]))}."
            " Nothing was prepared. Revoke the key, then remove it from the run's own files"
        )


# -- what goes in --------------------------------------------------------------------------------


def _model_files(run: Run, model: model_card.Published, to: Path) -> None:
    names = [*TOKENIZER, "rounds.json"]
    if model.what == "adapter" and run.adapter is not None:
        _take(run.adapter, to, ("adapter_model*.safetensors",))
        named = _json(run.adapter / ADAPTER_CONFIG)
        named["base_model_name_or_path"] = model.base
        _put(to / ADAPTER_CONFIG, json.dumps(named, indent=2) + "\n")
    else:
        _take(run.model, to, WEIGHTS)
        names += ["config.json", "generation_config.json"]
    _take(run.model, to, names)


def _records(run: Run, found: Evaluation, to: Path) -> None:
    for path in found.files:
        _copy(path, to / "evaluation" / path.name)
    curve = found.files[0].parent / "learning_curve.png"
    if curve.is_file():
        _copy(curve, to / "evaluation" / curve.name)
    for name in ("config.json", "config.yaml", "metrics.jsonl", "validation.jsonl", "proof.json"):
        if (run.folder / name).is_file():
            _copy(run.folder / name, to / "training" / name)


def _traces(run: Run, to: Path, wanted: int) -> None:
    """The first episodes of the last validation, in the form of the Hub's trace viewer."""
    from eval.record import read_episodes
    from eval.session_traces import file_name, session

    played = run.folder / "best" / "episodes.jsonl"
    if not wanted or not played.is_file():
        return
    for one in islice((t for t in read_episodes(played) if t.lost is None), wanted):
        named = replace(one, agent=one.agent or "policy")
        body = b"".join(canonical(line) + b"\n" for line in session(named))
        _put(to / "traces" / f"{file_name(named)}.jsonl", body.decode())


def _take(source: Path, to: Path, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            _copy(path, to / path.name)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# -- what comes out ------------------------------------------------------------------------------


def _clean(folder: Path) -> list[Redaction]:
    """Rewrite every record and trace that holds what must not leave; list what was taken out."""
    hosts, told = this_host(), []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in VERBATIM or _is_binary(path):
            continue
        text = path.read_text(encoding="utf-8")
        clean, removed = redact(text, hosts)
        if removed:
            path.write_text(clean, encoding="utf-8")
            told += [Redaction(path.relative_to(folder).as_posix(), one) for one in removed]
    return told


def _is_binary(path: Path) -> bool:
    return path.suffix in {".safetensors", ".png", ".model"}


def _searchable(path: Path) -> str:
    """The words in a file: all of a text or a picture, the header alone of weights."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER), "little")
            return file.read(min(length, 1 << 26)).decode("utf-8", "replace")
    return path.read_bytes().decode("utf-8" if not _is_binary(path) else "latin-1", "replace")


def _config(folder: Path) -> Mapping[str, Any]:
    from configs.loader import read

    if (folder / "config.json").is_file():
        return _json(folder / "config.json")
    return read(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
