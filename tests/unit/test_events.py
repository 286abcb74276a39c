"""Pulumi's events become progress lines and an outcome."""

from __future__ import annotations

import json
from typing import Any

from infra.pulumi_cli.events import Events, ResourceChange

URN = "urn:pulumi:s::letta-ops::letta-ops:local:Postgres$pulumi-python:dynamic/letta-ops:X::cluster"


def step(kind: str, op: str, type_: str = "pulumi-python:dynamic/x:Y", urn: str = URN) -> str:
    metadata = {"op": op, "urn": urn, "type": type_, "provider": "urn::pulumi-python"}
    return json.dumps({kind: {"metadata": metadata}})


def diagnostic(severity: str, message: str) -> str:
    return json.dumps({"diagnosticEvent": {"severity": severity, "message": message, "urn": URN}})


def read(*lines: str, **settings: Any) -> tuple[Events, list[str]]:
    said: list[str] = []
    events = Events(said.append, **settings)
    for line in lines:
        events.read(line)
    return events, said


def test_a_step_is_told_when_it_begins_and_when_it_ends() -> None:
    events, said = read(step("resourcePreEvent", "create"), step("resOutputsEvent", "create"))
    assert said[0] == "cluster: creating"
    assert said[1].startswith("cluster: created (")
    assert events.resources == [ResourceChange("cluster", "pulumi-python:dynamic/x:Y", "create")]


def test_what_stays_as_it_is_is_not_told() -> None:
    assert read(step("resourcePreEvent", "same"), step("resOutputsEvent", "same"))[1] == []


def test_a_preview_collects_and_tells_nothing() -> None:
    events, said = read(step("resourcePreEvent", "update"), preview=True)
    assert said == []
    assert [change.action for change in events.resources] == ["update"]


def test_the_stack_itself_is_no_resource() -> None:
    assert read(step("resourcePreEvent", "create", "pulumi:pulumi:Stack"))[0].resources == []


def test_debug_events_which_may_hold_secrets_are_dropped() -> None:
    events, said = read(diagnostic("debug", "props: hunter2"))
    assert said == []
    assert events.errors == []
    assert events.other == []


def test_what_a_provider_prints_is_progress_and_what_fails_is_kept() -> None:
    events, said = read(
        diagnostic("info#err", "installing 261 packages\n"),
        diagnostic("info#err", "Traceback (most recent call last):"),
        diagnostic("error", "it broke\n"),
    )
    assert said == ["cluster: installing 261 packages"]
    assert events.errors == ["it broke"]


def test_the_summary_counts_and_the_clis_own_words_are_kept() -> None:
    summary = json.dumps({"summaryEvent": {"resourceChanges": {"same": 3, "create": 1}}})
    events, _ = read(summary, "error: incorrect passphrase", "42")
    assert events.changes == {"same": 3, "create": 1}
    assert events.other == ["error: incorrect passphrase", "42"]


TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/opt/pulumi/pulumi-language-python-exec", line 214, in <module>',
    "    loop.run_until_complete(coro)",
    "    ~~~~~~~~~~~~~~~~~~~~~~~^^^^^^",
    "grpc.aio._call.AioRpcError: <AioRpcError of RPC that terminated with:",
    "\tstatus = StatusCode.UNKNOWN",
    ">",
    "",
    "During handling of the above exception, another exception occurred:",
    "",
    "Traceback (most recent call last):",
    '  File "/opt/pulumi/runtime/resource.py", line 1000, in do_register',
    "    raise RunError(message)",
    "pulumi.runtime.sync_await.RunError: resource letta failed",
]


def test_a_traceback_that_comes_line_by_line_is_left_out_and_what_follows_is_told() -> None:
    lines = [diagnostic("info#err", line + "\n") for line in TRACEBACK]
    after = diagnostic("info#err", "the model gave no answer: timeout")
    events, said = read(*lines, after, diagnostic("error", "container failed to start"))
    assert said == ["cluster: the model gave no answer: timeout"]
    assert events.errors == ["container failed to start"]


def test_a_traceback_is_left_out_of_errors_and_of_the_clis_own_words() -> None:
    events, _ = read(
        "no event", *TRACEBACK, diagnostic("error", "\n".join([*TRACEBACK, "in short"]))
    )
    assert events.other == ["no event"]
    (error,) = events.errors
    assert error.splitlines()[-2:] == [TRACEBACK[-1], "in short"]
    assert "Traceback" not in error
    assert "File" not in error


def test_an_error_of_the_program_says_what_was_raised() -> None:
    heading, raised = "Program failed with an unhandled exception:", "KeyError: 'x'"
    whole = "\n".join([heading, *TRACEBACK[:4], raised])
    events, _ = read(diagnostic("error", whole), diagnostic("error", "Error: the next\nmore"))
    assert events.errors == [f"{heading}\n{raised}", "Error: the next\nmore"]
