"""What the server borrows from the rooms above it is there, or the answer says how to get it."""

from __future__ import annotations

from math import sqrt

import pytest

from env_server.provided import NotProvided, provided


def test_an_object_is_found_by_its_dotted_path() -> None:
    assert provided("math:sqrt", "unused") is sqrt


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_room.agents:player", "no_such_room"),
        ("math:squircle", "has no 'squircle'"),
        ("math.sqrt", "package.module:name"),
    ],
)
def test_what_is_missing_is_refused_with_the_remedy(path: str, words: str) -> None:
    with pytest.raises(NotProvided) as refused:
        provided(path, "run: pip install rounds[train]")
    assert words in str(refused.value)
    assert "pip install rounds[train]" in str(refused.value)
