"""Hostile frames by the thousand, and schemathesis on the typed API: no 500, no dead session, no lost seat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from servers import serving, until

from bench import fuzz

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--capacity", "1000") as url:
        yield url


def test_no_frame_goes_unanswered_ends_a_session_or_keeps_a_seat(url: str) -> None:
    """The same with 100 000 frames: `python -m bench.fuzz`."""
    broken = [figure for figure in fuzz.against(url, 2000, 7) if not figure.kept]
    assert broken == []


def test_the_typed_api_keeps_to_its_document(url: str) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=r"^/v1/")
    checks = [
        *(not_a_server_error, status_code_conformance),
        *(content_type_conformance, response_schema_conformance),
    ]
    seen, turns, reached = 0, count(), Counter[int]()
    for found in schema.get_all_operations():
        operation = found.ok()
        seen += 1

        @settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case: schemathesis.Case) -> None:
            # by chance no id is ever a session's: half of them are made to be
            if "session_id" in (case.path_parameters or {}) and next(turns) % 2:
                case.path_parameters["session_id"] = begun(url)
            reached[case.call_and_validate(checks=checks).status_code] += 1

        call()
    assert seen >= 10 and reached[200] > 20 and reached[201] > 2
    assert until(lambda: httpx.get(f"{url}/health").status_code == 200, 5)
    assert "rounds_errors_total{" not in httpx.get(f"{url}/metrics").text
    httpx.delete(f"{url}/v1/sessions")
    assert httpx.get(f"{url}/v1/capacity").json()["taken"] == 0


def begun(url: str) -> str:
    """The id of a session with an episode under way."""
    reply = httpx.post(f"{url}/v1/sessions", json={"task_id": "easy_screening", "seed": 1})
    name: str = reply.json()["session_id"]
    return name
