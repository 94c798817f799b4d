"""What is spelled for the wire can be read by anybody, and is what was meant."""

from __future__ import annotations

import json
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from env_server import wire


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_no_reply_holds_a_number_that_json_has_not(bad: float) -> None:
    for body in ({"reward": bad}, [1, [{"a": (bad,)}]]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            wire.encoded(body)
    assert wire.encoded({"note": "NaN, -Infinity"}) == b'{"note":"NaN, -Infinity"}'


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**30), 10**30)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_encoded_is_what_is_read(value: Any) -> None:
    assert json.loads(wire.encoded({"v": value})) == {"v": value}
    assert wire.dumps({"v": value}).encode() == wire.encoded({"v": value})
