"""What keeps a stack's Postgres from going to another major version, before anything is stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from infra.errors import LettaOpsError
from infra.stack.releases import NEWEST, RELEASES
from ops_cli.migrations import postgres_plan
from ops_cli.migrations.plan import OK, REFUSED, WARNING

CLUSTER = cast(Any, SimpleNamespace(size=10 * 1024**3))


class Link:
    """Answers what was asked for, by a word of the question."""

    def __init__(self, **answers: list[tuple[object, ...]]) -> None:
        self._answers = answers

    def execute(self, query: str, *_: object) -> list[tuple[object, ...]]:
        return next((rows for word, rows in self._answers.items() if word in query), [])


def found(*parts: Any) -> dict[str, str]:
    return {each.name: each.verdict for each in parts}


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    return SimpleNamespace(stack="stack", folder=SimpleNamespace(root=tmp_path))


@pytest.mark.parametrize(("free", "verdict"), [(11, REFUSED), (12, OK)])
def test_there_must_be_room_for_another_cluster(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str
) -> None:
    usage = SimpleNamespace(free=free * 1024**3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(postgres_plan, "cluster_of", lambda _: CLUSTER)
    assert postgres_plan._space(deployment, CLUSTER).verdict == verdict
    if verdict == REFUSED:
        with pytest.raises(LettaOpsError, match="are free") as refused:
            postgres_plan.ensure_room(deployment)
        assert refused.value.code == "disk-full"


@pytest.mark.parametrize(
    ("answers", "verdicts"),
    [
        ({}, {}),
        ({"pg_prepared_xacts": [("payment",)]}, {"transactions": REFUSED}),
        ({"pg_tablespace": [("fast",)]}, {"tablespaces": REFUSED}),
        ({"'physical'": [("replica",)]}, {"slots": WARNING}),
        ({"'logical'": [("feed",)]}, {"slots": REFUSED}),
    ],
)
def test_what_pg_upgrade_does_not_take_along_is_named(
    answers: dict[str, Any], verdicts: dict[str, str]
) -> None:
    parts = list(postgres_plan._whole_cluster(cast(Any, Link(**answers))))
    assert found(*parts) == verdicts
    for each, (rows,) in zip(parts, answers.values(), strict=True):
        assert rows[0] in each.detail


@pytest.mark.parametrize(
    ("extension", "offered", "verdict"),
    [
        (("vector", "0.8.0"), {"vector": "0.8.5"}, OK),
        (("plpgsql", "1.0"), {"plpgsql": "1.0"}, None),
        (("pg_trgm", "1.6"), {"vector": "0.8.5"}, REFUSED),
    ],
)
def test_extensions_must_be_offered_by_the_other_version(
    extension: tuple[str, str], offered: dict[str, str], verdict: str | None
) -> None:
    link = cast(Any, Link(pg_extension=[extension]))
    parts = list(postgres_plan._one_database(link, "letta", offered))
    assert found(*parts) == ({} if verdict is None else {"extension": verdict})


def test_text_that_is_sorted_otherwise_now_is_told() -> None:
    link = cast(Any, Link(datcollversion=[("letta", "2.31", "2.41")]))
    (told,) = postgres_plan._one_database(link, "letta", {})
    assert (told.name, told.verdict) == ("collation", WARNING)


@pytest.mark.parametrize(
    ("written", "served", "refuses"),
    [
        ({}, NEWEST, False),
        ({}, "0.16.0", True),  # the newest would be started on its schema
        ({"release": "0.16.0"}, "0.16.0", False),
        ({"release": "0.16.7"}, NEWEST, True),
    ],
)
def test_the_run_that_starts_it_changes_no_release(
    deployment: Any,
    monkeypatch: pytest.MonkeyPatch,
    written: dict[str, str],
    served: str,
    refuses: bool,
) -> None:
    monkeypatch.setattr(postgres_plan, "configured", lambda _: written)
    parts = list(postgres_plan._as_configured(deployment, RELEASES[served]))
    assert found(*parts) == ({"release": REFUSED} if refuses else {})
