"""The words of a check: states, their order, and a report's shape."""

from __future__ import annotations

import pytest

from healthchecks.model import Finding, Report, State, worst


def test_what_is_known_to_be_broken_is_worse_than_what_could_not_be_seen() -> None:
    assert sorted(State, key=lambda state: state.severity) == [
        State.OK,
        State.WARNING,
        State.UNKNOWN,
        State.CRITICAL,
    ]


@pytest.mark.parametrize(
    ("states", "expected", "code"),
    [
        ((State.OK, State.OK), State.OK, 0),
        ((State.OK, State.WARNING), State.WARNING, 1),
        ((State.WARNING, State.UNKNOWN), State.UNKNOWN, 3),
        ((State.UNKNOWN, State.CRITICAL, State.OK), State.CRITICAL, 2),
        ((), State.UNKNOWN, 3),
    ],
)
def test_the_exit_code_is_that_of_the_worst_state(
    states: tuple[State, ...], expected: State, code: int
) -> None:
    assert worst(states) is expected
    findings = tuple(Finding(str(number), state, "") for number, state in enumerate(states))
    assert Report("stack", findings, 0.0).exit_code == code


def test_a_report_says_everything_in_json() -> None:
    finding = Finding("disk", State.WARNING, "only 1 GB", "of 100 GB", "free some space")
    assert Report("prod", (finding,), 0.12345).as_json() == {
        "stack": "prod",
        "state": "WARNING",
        "seconds": 0.123,
        "findings": [
            {
                "name": "disk",
                "state": "WARNING",
                "summary": "only 1 GB",
                "detail": "of 100 GB",
                "hint": "free some space",
                "checked": True,
            }
        ],
    }
