"""Which folder is the cluster of a local stack, also when a change was killed at any rename."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from infra.embedded.cluster import major_of
from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder
from infra.stack.settings import Settings
from infra.targets import settings as read_settings
from infra.targets.local.cluster import LocalCluster
from infra.targets.local.preflight import ensure_same_postgres
from infra.targets.local.providers.cluster import ensure_none_kept
from infra.targets.local.settings import LocalSettings
from ops_cli.migrations.postgres_plan import ensure_way

LIVE, BESIDE, PREVIOUS, OLDER, UNDONE = (
    f"postgres{ending}" for ending in ("", ".upgrading", ".previous", ".older", ".undone")
)
# An upgrade from 16 to 18, after each of its steps; before it, one from 14.
STEPS = (
    {LIVE: "16", PREVIOUS: "14"},
    {LIVE: "16", PREVIOUS: "14", BESIDE: "18"},
    {LIVE: "16", OLDER: "14", BESIDE: "18"},
    {PREVIOUS: "16", OLDER: "14", BESIDE: "18"},
    {LIVE: "18", PREVIOUS: "16", OLDER: "14"},
)


def place(folder: Path, clusters: dict[str, str]) -> LocalCluster:
    for name, major in clusters.items():
        (folder / "stack" / "data" / name).mkdir(parents=True)
        (folder / "stack" / "data" / name / "PG_VERSION").write_text(f"{major}\n")
    host = SimpleNamespace(folder=StackFolder(folder, "stack"), deployment=None)
    return LocalCluster(cast(Any, host))


def clusters(folder: Path) -> dict[str, str | None]:
    return {each.name: major_of(each) for each in (folder / "stack" / "data").iterdir()}


@pytest.mark.parametrize("step", STEPS, ids=range(len(STEPS)))
def test_going_back_brings_the_cluster_back_from_every_step(
    tmp_path: Path, step: dict[str, str]
) -> None:
    cluster = place(tmp_path, step)
    for _ in range(2):  # and is safe to run again
        cluster.go_back("16")
        found = clusters(tmp_path)
        assert found.pop(UNDONE, "18") == "18"
        assert found == STEPS[0]
    assert (UNDONE in clusters(tmp_path)) == (step.get(LIVE) == "18")


def test_the_copy_takes_its_place_and_what_was_there_is_kept(tmp_path: Path) -> None:
    cluster = place(tmp_path, STEPS[1])
    cluster.exchange()
    assert clusters(tmp_path) == STEPS[-1]
    assert (cluster.major, cluster.replaced) == ("18", "16")
    assert set(cluster.kept()) == {PREVIOUS, OLDER}
    cluster.drop()
    assert clusters(tmp_path) == STEPS[-1]
    cluster.drop(OLDER)
    assert clusters(tmp_path) == {LIVE: "18", PREVIOUS: "16"}


def test_without_the_old_cluster_nothing_is_touched(tmp_path: Path) -> None:
    there = {LIVE: "18", PREVIOUS: "14"}
    with pytest.raises(LettaOpsError, match="neither"):
        place(tmp_path, there).go_back("16")
    assert clusters(tmp_path) == there


@pytest.mark.parametrize("beside", [PREVIOUS, OLDER, UNDONE])
def test_no_new_cluster_is_made_where_one_lies_beside(tmp_path: Path, beside: str) -> None:
    place(tmp_path, {beside: "16"})
    with pytest.raises(LettaOpsError, match=beside) as refused:
        ensure_none_kept(StackFolder(tmp_path, "stack"))
    assert refused.value.code == "data-missing"


def test_what_is_no_version_is_not_taken_for_one(tmp_path: Path) -> None:
    """The file lies where Postgres' account may write."""
    file, secret = tmp_path / "PG_VERSION", tmp_path / "secret"
    assert major_of(tmp_path) is None
    secret.write_text("16")
    file.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        major_of(tmp_path)
    file.unlink()
    os.mkfifo(file)
    for text in (None, "a secret"):
        if text is not None:
            file.unlink()
            file.write_text(text)
        with pytest.raises(LettaOpsError, match="does not name a version") as refused:
            major_of(tmp_path)
        assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("wanted", "next_step"), [("", None), ("16", None), ("18", "migrate apply --postgres 18")]
)
def test_what_is_configured_does_not_change_the_cluster_that_is_there(
    tmp_path: Path, wanted: str, next_step: str | None
) -> None:
    cluster = place(tmp_path, {LIVE: "16"})
    folder, settings = StackFolder(tmp_path, "stack"), _settings(wanted)
    if next_step is None:
        ensure_same_postgres(folder, settings)
        return
    with pytest.raises(LettaOpsError) as refused:
        ensure_same_postgres(folder, settings)
    assert refused.value.code == "database-version"
    assert next_step in refused.value.hint
    assert cluster.major == "16"


@pytest.mark.parametrize(
    ("there", "wanted", "code"),
    [
        ("16", "17", "postgres-unknown"),
        ("16", "16", "nothing-to-migrate"),
        ("18", "16", "postgres-older"),
    ],
)
def test_where_no_way_leads_is_said(tmp_path: Path, there: str, wanted: str, code: str) -> None:
    with pytest.raises(LettaOpsError) as refused:
        ensure_way(place(tmp_path, {LIVE: there}), wanted)
    assert refused.value.code == code


def test_a_version_that_is_not_brought_is_no_configuration() -> None:
    with pytest.raises(LettaOpsError, match=r"database.postgres: '17' is unknown"):
        _settings("17")


def _settings(major: str) -> LocalSettings:
    found: Settings = read_settings("stack", {"database.postgres": major})
    assert isinstance(found, LocalSettings)
    return found
