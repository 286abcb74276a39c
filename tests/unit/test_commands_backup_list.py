"""`backup list`, `show`, `keep` and `prune`: from the command line to the answer, on a real folder."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path

import pytest

from backups.catalog import read_catalog, write_object
from backups.manifest import MANIFEST
from backups.stores.folder import FolderStore
from infra.files import write_private
from ops_cli import main
from tests.unit.backups import DEPLOYMENT, manifest, put, put_drill

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
NOW = dt.datetime.now(dt.UTC)
FIELDS = {
    "id", "deployment", "stack", "created_at", "age_seconds", "size", "release", "revision",
    "agents", "messages", "label", "scope", "encrypted", "kept", "drill",
}  # fmt: skip
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """The store of a deployment whose profile has nothing but its URL and its id."""
    for name in [name for name in os.environ if name.startswith("LETTA_OPS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LETTA_OPS_STATE", str(tmp_path / "state"))
    write_private(
        tmp_path / "state" / "local" / "profile.toml",
        f'id = "{DEPLOYMENT}"\nretention = "last=2"\n[server]\nurl = "http://127.0.0.1:1"\n'
        f'[store]\nurl = "{(tmp_path / "store").as_uri()}"\n',
    )
    return FolderStore(tmp_path / "store")


def run(*words: str, code: int = 0) -> None:
    assert main.run(["backup", *words]) == code


def answer(captured: Captured, *words: str, code: int = 0) -> object:
    captured.readouterr()
    run(*words, "--json", code=code)
    return json.loads(captured.readouterr().out)


def five(store: FolderStore) -> list[str]:
    """Ids of five backups, newest first; the newest is an hour old."""
    made = [manifest(created_at=NOW - HOUR - number * DAY) for number in range(5)]
    for each in made:
        put(store, each)
    return [each.id for each in made]


def ids(answered: object) -> list[str]:
    assert isinstance(answered, list)
    return [each["id"] for each in answered]


def test_a_store_without_backups_says_so(store: FolderStore, capsys: Captured) -> None:
    run("list")
    assert capsys.readouterr().out == "no backups\n"
    assert answer(capsys, "list") == []


def test_backups_are_listed_newest_first_with_what_matters(
    store: FolderStore, capsys: Captured
) -> None:
    made = manifest(
        created_at=NOW - 2 * DAY, label="before the migration", encryption="age-recipients"
    )
    put(store, made)
    put_drill(store, made, "passed", NOW - 26 * HOUR)
    newest = put(store, manifest(created_at=NOW - HOUR)).split("/")[1]
    listed = answer(capsys, "list")
    assert ids(listed) == [newest, made.id]
    assert isinstance(listed, list)
    assert all(set(each) == FIELDS for each in listed)
    assert listed[1] | {"drill": None, "age_seconds": None} == {
        "id": made.id,
        "deployment": DEPLOYMENT,
        "stack": "prod",
        "created_at": made.created_at.isoformat(),
        "age_seconds": None,
        "size": made.size,
        "release": "0.16.8",
        "revision": "1c28e167b74f",
        "agents": 3,
        "messages": 41,
        "label": "before the migration",
        "scope": "database",
        "encrypted": True,
        "kept": None,
        "drill": None,
    }
    assert listed[1]["drill"]["verdict"] == "passed"
    assert listed[1]["drill"]["seconds"] == 41.0
    assert listed[0]["drill"] is None
    run("list")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "ID", "AGE", "SIZE", "RELEASE", "REVISION", "AGENTS", "MESSAGES", "LABEL", "ENCRYPTED",
        "KEPT", "DRILL",
    ]  # fmt: skip
    assert first.split()[-1] == "never"
    assert second.endswith("passed 26 h ago, in 41 s")
    assert "before the migration" in second


def test_other_deployments_are_listed_only_with_all(store: FolderStore, capsys: Captured) -> None:
    mine = five(store)
    put(store, manifest("theirs", NOW - 9 * DAY, deployment="other"))
    assert ids(answer(capsys, "list")) == mine
    assert ids(answer(capsys, "list", "--all")) == [*mine, "theirs"]
    run("list", "--all")
    assert capsys.readouterr().out.splitlines()[-1].endswith("other")
    assert answer(capsys, "show", "theirs", code=1) != {}
    shown = answer(capsys, "show", "theirs", "--all")
    assert isinstance(shown, dict)
    assert shown["deployment"] == "other"


def test_a_damaged_backup_is_listed_as_damaged_and_an_unfinished_one_only_mentioned(
    store: FolderStore, capsys: Captured
) -> None:
    backups = five(store)
    write_object(store, f"{DEPLOYMENT}/{backups[4]}/{MANIFEST}", "altered")
    write_object(store, f"{DEPLOYMENT}/torn/database.dump.zst", "torn")
    listed = answer(capsys, "list")
    assert ids(listed) == backups
    assert isinstance(listed, list)
    assert set(listed[-1]) == {*FIELDS, "damaged"}
    assert listed[-1]["damaged"]["code"] == "manifest-damaged"
    run("list")
    captured = capsys.readouterr()
    assert f"damaged: {backups[4]}: " in captured.out
    assert "1 unfinished; " in captured.err
    assert "torn" not in captured.out
    run("show", backups[4], code=1)
    assert "was altered" in capsys.readouterr().err


def test_show_tells_everything_of_the_newest_or_of_the_one_that_is_named(
    store: FolderStore, capsys: Captured
) -> None:
    backups = five(store)
    old = manifest(created_at=NOW - HOUR - 4 * DAY)
    for hours in (3, 2, 1):
        put_drill(store, old, "passed" if hours > 1 else "failed", NOW - hours * HOUR)
    shown = answer(capsys, "show", backups[4])
    assert isinstance(shown, dict)
    assert {*FIELDS, "parts", "database", "memory", "drills", "recipients"} <= set(shown)
    assert [drill["verdict"] for drill in shown["drills"]] == ["passed", "passed", "failed"]
    assert shown["database"]["tables"]["public.messages"]["rows"] == 41
    assert shown["kept"] is None
    newest = answer(capsys, "show")
    assert isinstance(newest, dict)
    assert newest["id"] == backups[0]
    run("show", backups[4])
    text = capsys.readouterr().out
    for words in (backups[4], "public.messages", "database.dump.zst", "drill: failed"):
        assert words in text
    run("show", "1999", code=1)
    assert "no complete backup 1999" in capsys.readouterr().err


def test_a_mark_is_set_shown_and_taken_away(store: FolderStore, capsys: Captured) -> None:
    backups = five(store)
    assert answer(capsys, "keep", backups[4], "--reason", "the audit") == {
        "id": backups[4],
        "kept": "the audit",
    }
    listed = answer(capsys, "list")
    assert isinstance(listed, list)
    assert listed[4]["kept"] == "the audit"
    run("prune", "--yes")
    assert f"{backups[4]}: kept: the audit" in capsys.readouterr().out
    assert answer(capsys, "keep", backups[4], "--remove") == {"id": backups[4], "kept": None}
    assert ids(answer(capsys, "list")) == [*backups[:2], backups[4]]
    run("prune", "--yes")
    assert ids(answer(capsys, "list")) == backups[:2]


def test_prune_without_yes_only_says_what_would_go_and_why(
    store: FolderStore, capsys: Captured
) -> None:
    backups = five(store)
    planned = answer(capsys, "prune")
    assert isinstance(planned, dict)
    assert planned["dry_run"] is True
    assert ids(planned["removed"]) == backups[2:]
    assert ids(planned["kept"]) == backups[:2]
    assert planned["kept"][0]["reasons"] == ["the newest backup", "last 1 of 2"]
    assert planned["removed"][0]["reasons"] == ["no rule keeps it"]
    assert planned["freed"] > 0
    run("prune")
    text = capsys.readouterr().out
    assert f"keep      {backups[0]}: the newest backup, last 1 of 2" in text
    assert f"remove    {backups[4]}: no rule keeps it" in text
    assert "nothing was removed" in text
    assert ids(answer(capsys, "list")) == backups


def test_prune_with_yes_removes_it_and_says_what_it_did(
    store: FolderStore, capsys: Captured
) -> None:
    backups = five(store)
    write_object(store, f"{DEPLOYMENT}/torn/database.dump.zst", "torn")
    done = answer(capsys, "prune", "--yes")
    assert isinstance(done, dict)
    assert (done["dry_run"], ids(done["removed"])) == (False, backups[2:])
    assert (done["leftovers"], done["younger"]) == ([], 1)
    assert [each.id for each in read_catalog(store, DEPLOYMENT).backups] == backups[1::-1]
    again = answer(capsys, "prune", "--yes")
    assert isinstance(again, dict)
    assert (again["removed"], again["freed"]) == ([], 0)
    assert not [entry for entry in store.entries() if "lock" in entry.name]


def test_a_store_that_is_not_there_is_told_with_its_next_step(
    store: FolderStore, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("LETTA_OPS_STORE_URL", (store.root / "not" / "mounted").as_uri())
    run("list", code=1)
    assert "next: mount what backups are kept on" in capsys.readouterr().err
