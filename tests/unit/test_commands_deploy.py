"""`up`, `preview` and `destroy`: what is asked, said and refused around a provisioning run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import infra.provision
from healthchecks import smoke
from infra.errors import LettaOpsError
from infra.provision import Outcome, Request
from infra.pulumi_cli.events import ResourceChange
from infra.stack.deployment import Deployment
from infra.stack.profile import remember
from ops_cli import asking, main

CREATED = Outcome(
    "local",
    {"create": 2, "same": 1},
    (ResourceChange("db", "Postgres", "create"),),
    41.2,
)
UNCHANGED = Outcome("local", {"same": 9}, (), 3.0)
GOOD = smoke.Smoke(True, 2.0, (smoke.Step("create", True, 1.0, "an agent"),))
BAD = smoke.Smoke(False, 2.0, (smoke.Step("message", False, 1.0, "no answer"),))


class Provisioning:
    """Stands where a real run would take minutes; the live tests make real stacks."""

    def __init__(self) -> None:
        self.outcome = CREATED
        self.smoke = GOOD
        self.calls: list[tuple[str, Request, dict[str, Any]]] = []

    def call(self, verb: str) -> Any:
        def run(request: Request, report: Any, **settings: Any) -> Outcome:
            self.calls.append((verb, request, settings))
            report("postgres: created")
            return self.outcome

        return run

    def smoke_test(self, _deployment: Deployment, **settings: Any) -> smoke.Smoke:
        for step in self.smoke.steps:
            settings["on_step"](step)
        return self.smoke


@pytest.fixture(autouse=True)
def provisioning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provisioning:
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path))
    remember(tmp_path / "local" / "profile.toml", {"server.url": "http://127.0.0.1:8283"})
    double = Provisioning()
    for verb in ("up", "preview", "destroy"):
        monkeypatch.setattr(infra.provision, verb, double.call(verb))
    monkeypatch.setattr(smoke, "run", double.smoke_test)
    return double


def test_up_says_what_changed_where_it_is_and_what_comes_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.run(["up"]) == 0
    captured = capsys.readouterr()
    for part in (
        "2 created",
        "http://127.0.0.1:8283",
        "profile.toml",
        "secret show server-password",
    ):
        assert part in captured.out
    assert "[   0 s] postgres: created" in captured.err
    assert "smoke: create: passed" in captured.err


def test_up_without_changes_says_so(
    provisioning: Provisioning, capsys: pytest.CaptureFixture[str]
) -> None:
    provisioning.outcome = UNCHANGED
    assert main.run(["up", "--no-smoke"]) == 0
    assert "nothing to change" in capsys.readouterr().out


def test_up_in_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["up", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"stack", "changes", "seconds", "url", "profile", "smoke"}
    assert answer["smoke"]["passed"] is True
    assert main.run(["up", "--json", "--no-smoke"]) == 0
    assert json.loads(capsys.readouterr().out)["smoke"] is None


def test_up_fails_when_the_smoke_test_fails(
    provisioning: Provisioning, capsys: pytest.CaptureFixture[str]
) -> None:
    provisioning.smoke = BAD
    assert main.run(["up"]) == 1
    assert "- message: no answer" in capsys.readouterr().err
    assert main.run(["up", "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"]["code"] == "smoke-failed"
    assert answer["changes"] == {"create": 2, "same": 1}


def test_settings_reach_the_run(provisioning: Provisioning) -> None:
    main.run(["--stack", "blue", "up", "--config", "server.port=9000", "--config", "model=none"])
    ((verb, request, _),) = provisioning.calls
    assert verb == "up"
    assert request == Request("blue", {"server.port": "9000", "model": "none"})


GATES = [
    ("create", "db", "changes", 1),
    ("create", "db", "losses", 0),
    ("replace", "proxy", "losses", 1),
    ("replace", "proxy", "data", 0),
    ("update", "volume-database", "data", 0),
    ("replace", "volume-database", "data", 1),
    ("delete", "encryption-key", "data", 1),
    ("delete", "encryption-key", "never", 0),
]


@pytest.mark.parametrize(("action", "name", "gate", "code"), GATES)
def test_a_preview_can_gate_a_merge(
    action: str,
    name: str,
    gate: str,
    code: int,
    provisioning: Provisioning,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change = ResourceChange(name, "Some", action)
    provisioning.outcome = Outcome("local", {action: 1}, (change,), 1.0)
    assert main.run(["preview", "--fail-on", gate, "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["gate"] == {"fail_on": gate, "passed": code == 0}
    assert ("error" in answer) == (code == 1)
    assert answer["resources"][0]["name"] == name


@pytest.mark.parametrize("arguments", [["up", "--dry-run"], ["preview"]])
def test_a_preview_lists_what_would_change(
    arguments: list[str], provisioning: Provisioning, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "stack": "local",
        "changes": {"create": 2, "same": 1},
        "resources": [{"name": "db", "type": "Postgres", "action": "create", "data": False}],
        "gate": {"fail_on": "never", "passed": True},
    }
    assert main.run(arguments) == 0
    assert "would create 2\n" in capsys.readouterr().out
    assert {verb for verb, _, _ in provisioning.calls} == {"preview"}


@pytest.mark.parametrize("verb", ["up", "preview", "destroy"])
def test_a_profile_is_not_provisioned(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([verb, "--profile", "x.toml"]) == 2
    assert "name a stack with --stack" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["--delete-data"]])
def test_without_a_terminal_destroy_refuses_instead_of_asking(
    extra: list[str], provisioning: Provisioning, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["destroy", *extra, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "not-confirmed"
    assert "--yes" in error["hint"]
    assert not provisioning.calls


@pytest.mark.parametrize(
    ("extra", "answer", "done"),
    [
        ([], "y", True),
        ([], "", False),
        ([], "local", False),
        (["--delete-data"], "local", True),
        (["--delete-data"], "y", False),
        (["--delete-data"], "", False),
    ],
)
def test_on_a_terminal_stopping_needs_a_yes_and_deleting_needs_the_name(
    extra: list[str],
    answer: str,
    done: bool,
    provisioning: Provisioning,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "_need_terminal", lambda refusal: None)
    monkeypatch.setattr(asking, "_answer", lambda prompt: answer)
    assert main.run(["destroy", *extra]) == (0 if done else 1)
    assert bool(provisioning.calls) == done


def test_yes_deletes_without_asking_and_says_so(
    provisioning: Provisioning, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main.run(["destroy", "--delete-data", "--yes", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["data"] == {"folder": str(tmp_path / "local"), "also": [], "deleted": True}
    assert provisioning.calls[0][2] == {"delete_data": True}


def test_a_dry_run_of_destroy_does_nothing(
    provisioning: Provisioning, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["destroy", "--delete-data", "--dry-run"]) == 0
    assert "would be DELETED" in capsys.readouterr().out
    assert not provisioning.calls


def test_a_stack_that_is_not_there_is_not_destroyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--stack", "locla", "destroy", "--yes", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no-stack"


def test_a_run_that_fails_is_told_with_its_next_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> Outcome:
        raise LettaOpsError("ports", "8283 is taken", "choose another")

    monkeypatch.setattr(infra.provision, "up", fail)
    assert main.run(["up"]) == 1
    assert "error: 8283 is taken\n  next: choose another\n" in capsys.readouterr().err
