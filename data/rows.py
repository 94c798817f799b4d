"""One CSV file of a table set, row by row, and what is wrong with a cell that cannot be used.

Knows nothing of drugs: `tables.py` says what each column must hold.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import TypeVar

Word = TypeVar("Word", bound=str)


class BadTable(ValueError):
    """A table cannot be used: the message names the file, the line, the value and the way out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of one file; every reader below returns a usable value or raises BadTable."""

    file: str
    line: int
    cells: Mapping[str, str]

    def wrong(self, column: str, why: str, remedy: str) -> BadTable:
        """The error for a value that cannot be used."""
        value = self.cells[column]
        return BadTable(f"{self.file} line {self.line}: {column} {value!r} {why}; {remedy}")

    def text(self, column: str) -> str:
        """The words in a cell that must not be empty."""
        words = self.cells[column].strip()
        if not words:
            raise self.wrong(column, "is empty", "write a value")
        return words

    def maybe(self, column: str) -> str | None:
        """The words in a cell, or None where it is empty."""
        return self.cells[column].strip() or None

    def number(self, column: str, low: float, high: float, example: str) -> float:
        """A finite number in [low, high]. `example` completes the sentence "write ..."."""
        try:
            value = float(self.cells[column])
        except ValueError:
            raise self.wrong(column, "is not a number", f"write {example}") from None
        if not isfinite(value):
            raise self.wrong(column, "is not finite", f"write {example}")
        if not low <= value <= high:
            raise self.wrong(column, f"is outside {low:g} to {high:g}", f"write {example}")
        return value

    def whole(self, column: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        example = f"a whole number from {low} to {high}"
        value = self.number(column, low, high, example)
        if value != int(value):
            raise self.wrong(column, "is not a whole number", f"write {example}")
        return int(value)

    def flag(self, column: str) -> bool:
        """True for 1 and False for 0."""
        return self.one_of(column, ("0", "1")) == "1"

    def one_of(self, column: str, allowed: Sequence[Word]) -> Word:
        """The member of a closed vocabulary that the cell names."""
        word = self.cells[column].strip()
        for member in allowed:
            if word == member:
                return member
        raise self.wrong(column, "is not one of its values", f"write {' or '.join(allowed)}")

    def many(self, column: str) -> tuple[str, ...]:
        """The semicolon-separated words of a cell, none of them twice; () where it is empty."""
        cell = self.cells[column].strip()
        words = tuple(word.strip() for word in cell.split(";")) if cell else ()
        if "" in words:
            raise self.wrong(column, "has an empty item", "remove the spare semicolon")
        if len(set(words)) < len(words):
            raise self.wrong(column, "names an item twice", "write it once")
        return words

    def known(self, column: str, word: str, known: Collection[str], home: str) -> str:
        """`word` again if `known` holds it; `home` is the file where a new one would be added."""
        if word not in known:
            near = get_close_matches(word, known, 1)
            hint = (
                f"did you mean {near[0]!r}? else add it to {home}" if near else f"add it to {home}"
            )
            raise self.wrong(column, f"names no row of {home}: {word!r} is unknown", hint)
        return word


def read(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a UTF-8 file whose header is exactly `columns`, in any order; blank lines are skipped."""
    file = path.name
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadTable(
            f"{file} line 1: cannot be read from {str(path.parent)!r} ({reason}); "
            "a table directory holds all five files, copy the missing one from data/polypharmacy"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadTable(
            f"{file} line {line}: byte {error.object[error.start]:#04x} is not UTF-8; "
            "save the file as UTF-8"
        ) from error
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    found = False
    try:
        header = tuple(name.strip() for name in next(lines, []))
        _check_header(file, header, columns)
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                raise BadTable(
                    f"{file} line {lines.line_num}: {len(cells)} cells where the header has "
                    f"{len(header)}, from {cells[0]!r}; quote a cell that holds a comma"
                )
            found = True
            yield Row(file, lines.line_num, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise BadTable(
            f"{file} line {lines.line_num}: not readable as CSV ({error}); "
            "close every quote and double a quote inside a cell"
        ) from error
    if not found:
        raise BadTable(f"{file} line 2: no row below the header; write at least one row")


def _check_header(file: str, header: Sequence[str], columns: Sequence[str]) -> None:
    if not header:
        raise BadTable(f"{file} line 1: the file is empty; write the header {','.join(columns)}")
    for name in columns:
        if name not in header:
            raise BadTable(
                f"{file} line 1: column {name!r} is missing; the header is {','.join(columns)}"
            )
    for position, name in enumerate(header):
        if name not in columns:
            raise BadTable(f"{file} line 1: column {name!r} is not known; remove it")
        if name in header[:position]:
            raise BadTable(f"{file} line 1: column {name!r} is there twice; remove one")
