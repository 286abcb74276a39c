"""Prune: what goes, in which order, what a lock holds, and what an interruption leaves."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backups.catalog import read_catalog, write_object
from backups.keep import keep
from backups.manifest import KEEP, MANIFEST
from backups.prune import Outcome, Plan, execute, plan
from backups.stores.folder import FolderStore
from backups.stores.store import Entry, Store
from infra.errors import LettaOpsError
from infra.stack.backup_settings import Retention
from tests.memory_store import MemoryStore
from tests.unit.backups import CONTENT, DEPLOYMENT, NOON, manifest, put, put_drill

DAY = dt.timedelta(days=1)
TWO = Retention(last=2)


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")


class TellingStore(MemoryStore):
    """Remembers what is deleted; dies after so many deletions, and holds what is locked."""

    def __init__(self, locked: str = "") -> None:
        super().__init__()
        self.deleted: list[str] = []
        self.dies_after: int | None = None
        self.locked = locked

    def delete(self, name: str) -> None:
        if self.dies_after is not None and len(self.deleted) >= self.dies_after:
            raise KeyboardInterrupt
        if self.locked and self.locked in name:
            raise LettaOpsError("object-locked", f"{name} is locked until 2027", "wait")
        self.deleted.append(name)
        super().delete(name)


def soon() -> dt.datetime:
    """A moment at which what was just written is no longer young."""
    return dt.datetime.now(dt.UTC) + 2 * DAY


def five(store: Store) -> list[str]:
    made = [manifest(created_at=NOON - number * DAY) for number in range(5)]
    for each in made:
        put(store, each)
    return [each.id for each in made]


def names(store: Store) -> list[str]:
    return [entry.name for entry in store.entries()]


def pruned(store: Store, retention: Retention = TWO) -> tuple[Plan, Outcome]:
    planned = plan(store, DEPLOYMENT, retention, soon())
    return planned, execute(store, planned, lambda _: None)


def test_a_plan_changes_nothing_and_says_what_would_go(store: Store) -> None:
    ids = five(store)
    before = names(store)
    planned = plan(store, DEPLOYMENT, TWO, soon())
    assert {backup.id for backup in planned.going} == set(ids[2:])
    assert planned.size == 3 * 2 * len(CONTENT)
    assert names(store) == before


def test_what_is_pruned_is_gone_whole_and_the_rest_is_untouched(store: Store) -> None:
    ids = five(store)
    put_drill(store, manifest(created_at=NOON - 4 * DAY), "failed", NOON)
    untouched = [name for name in names(store) if any(kept in name for kept in ids[:2])]
    planned, done = pruned(store)
    assert set(done.removed) == set(ids[2:])
    assert names(store) == untouched
    assert done.freed > planned.size
    assert done.locked == {}
    assert pruned(store)[1] == Outcome()


def test_the_manifest_goes_before_anything_else_of_its_backup() -> None:
    store = TellingStore()
    ids = five(store)
    pruned(store)
    for gone in ids[2:]:
        of_one = [name for name in store.deleted if gone in name]
        assert of_one[0] == f"{DEPLOYMENT}/{gone}/{MANIFEST}"
        assert len(of_one) == 3


@pytest.mark.parametrize("deletions", range(9))
def test_wherever_it_is_interrupted_only_whole_backups_are_listed_and_the_next_prune_ends_it(
    deletions: int,
) -> None:
    store = TellingStore()
    ids = five(store)
    store.dies_after = deletions
    with pytest.raises(KeyboardInterrupt):
        pruned(store)
    for backup in read_catalog(store, DEPLOYMENT).backups:
        there = names(store)
        assert all(backup.object(part.object) in there for part in backup.manifest.parts)
    store.dies_after = None
    pruned(store)
    catalog = read_catalog(store, DEPLOYMENT)
    assert {backup.id for backup in catalog.backups} == set(ids[:2])
    assert catalog.incomplete == {}
    assert len(names(store)) == 2 * 3


def test_nothing_is_removed_once_the_lock_is_lost() -> None:
    store = TellingStore()
    five(store)
    turns = iter([None, None])

    def ensure_held() -> None:
        if next(turns, "lost") == "lost":
            raise LettaOpsError("lock-lost", "somebody has taken over", "look")

    planned = plan(store, DEPLOYMENT, TWO, soon())
    with pytest.raises(LettaOpsError, match="taken over"):
        execute(store, planned, lambda _: None, ensure_held)
    assert len([name for name in store.deleted if name.endswith(MANIFEST)]) == 2


def test_a_backup_that_is_locked_stays_whole_and_is_told() -> None:
    ids = five(store := TellingStore())
    store.locked = ids[4]
    _, done = pruned(store)
    assert set(done.removed) == {ids[2], ids[3]}
    assert done.locked == {
        f"{DEPLOYMENT}/{ids[4]}/{MANIFEST}": f"{DEPLOYMENT}/{ids[4]}/{MANIFEST} is locked until 2027"
    }
    (oldest, *_) = read_catalog(store, DEPLOYMENT).backups
    assert oldest.id == ids[4]
    assert all(oldest.object(part.object) in names(store) for part in oldest.manifest.parts)


def test_a_part_that_is_locked_is_told_and_goes_when_its_lock_has_ended() -> None:
    ids = five(store := TellingStore())
    store.locked = f"{ids[4]}/config"
    _, done = pruned(store)
    assert ids[4] in done.removed
    assert list(done.locked) == [f"{DEPLOYMENT}/{ids[4]}/config.zst"]
    _, again = pruned(store)
    assert (again.removed, list(again.locked)) == ([], list(done.locked))
    store.locked = ""
    assert pruned(store)[1].leftovers == list(done.locked)


def test_an_unfinished_backup_is_left_alone_for_a_day_and_is_then_a_leftover(store: Store) -> None:
    write_object(store, f"{DEPLOYMENT}/torn/database.dump.zst", "torn")
    now = dt.datetime.now(dt.UTC)
    planned = plan(store, DEPLOYMENT, TWO, now)
    assert (planned.leftovers, planned.younger) == ((), 1)
    execute(store, planned, lambda _: None)
    assert names(store) == [f"{DEPLOYMENT}/torn/database.dump.zst"]
    planned, done = pruned(store)
    assert [leftover.size for leftover in planned.leftovers] == [4]
    assert (done.leftovers, done.freed) == ([f"{DEPLOYMENT}/torn/database.dump.zst"], 4)
    assert names(store) == []


def test_drafts_of_a_write_that_was_killed_are_leftovers_after_a_day(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    put(store, manifest())
    draft = tmp_path / "store" / DEPLOYMENT / ".draft-0123456789abcdef"
    draft.write_bytes(b"torn")
    assert plan(store, DEPLOYMENT, TWO, dt.datetime.now(dt.UTC)).leftovers == ()
    old = (dt.datetime.now(dt.UTC) - 2 * DAY).timestamp()
    os.utime(draft, (old, old))
    planned = plan(store, DEPLOYMENT, TWO, dt.datetime.now(dt.UTC))
    assert [leftover.why for leftover in planned.leftovers] == ["a write that never ended"]
    assert draft.exists()
    done = execute(store, planned, lambda _: None)
    assert not draft.exists()
    assert (len(done.leftovers), done.freed) == (1, 4)
    assert len(read_catalog(store, DEPLOYMENT).backups) == 1


def test_what_is_damaged_is_told_and_stays(store: Store) -> None:
    ids = five(store)
    write_object(store, f"{DEPLOYMENT}/{ids[4]}/{MANIFEST}", "altered")
    planned, done = pruned(store)
    assert [damaged.id for damaged in planned.damaged] == [ids[4]]
    assert ids[4] not in done.removed
    assert len([name for name in names(store) if ids[4] in name]) == 3


def test_backups_of_another_deployment_and_locks_are_not_touched(store: Store) -> None:
    five(store)
    theirs = put(store, manifest("theirs", NOON - 900 * DAY, deployment="other"))
    write_object(store, "other/torn/database.dump.zst", "theirs")
    write_object(store, f"{DEPLOYMENT}/lock.json", "{}")
    pruned(store)
    assert len([name for name in names(store) if name.startswith(theirs)]) == 3
    assert "other/torn/database.dump.zst" in names(store)
    assert f"{DEPLOYMENT}/lock.json" in names(store)


def test_a_mark_that_is_set_before_the_plan_protects_and_goes_with_its_backup_after_it(
    store: Store,
) -> None:
    ids = five(store)
    catalog = read_catalog(store, DEPLOYMENT)
    keep(store, catalog.find(ids[4]), "before the migration", NOON)
    _, done = pruned(store)
    assert set(done.removed) == set(ids[2:4])
    store.delete(f"{DEPLOYMENT}/{ids[4]}/{KEEP}")
    assert pruned(store)[1].removed == [ids[4]]
    assert not [name for name in names(store) if ids[4] in name]


def test_the_only_backup_stays_whatever_the_rules_say(store: Store) -> None:
    put(store, manifest(created_at=NOON - 9000 * DAY))
    planned, done = pruned(store, Retention(hourly=1, within=1))
    assert done == Outcome()
    assert planned.decisions[0].keep


def test_a_store_that_fails_half_way_is_told_and_what_it_did_not_list_is_not_deleted() -> None:
    class Failing(TellingStore):
        def entries(self, prefix: str = "") -> Iterator[Entry]:
            if prefix.count("/") > 1:
                raise LettaOpsError("store-unreachable", "no answer", "look")
            return super().entries(prefix)

    store = Failing()
    five(store)
    with pytest.raises(LettaOpsError, match="no answer"):
        pruned(store)
    assert store.deleted == []


def test_a_plan_is_made_for_a_moment_that_is_given(store: Store) -> None:
    five(store)
    early = plan(store, DEPLOYMENT, Retention(within=24 * 10), NOON)
    late = plan(store, DEPLOYMENT, Retention(within=24 * 10), NOON + 30 * DAY)
    assert (len(early.going), len(late.going)) == (0, 4)
    assert replace(early, decisions=()).going == ()
