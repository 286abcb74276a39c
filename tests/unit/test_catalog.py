"""The catalogue: what counts as a backup, what is damaged, what is unfinished, and how one is named."""

from __future__ import annotations

import datetime as dt
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from backups.catalog import deployment_id, read_catalog, write_object
from backups.keep import keep, release
from backups.manifest import KEEP, MANIFEST
from backups.parallel import THREADS, in_parallel
from backups.stores.folder import FolderStore
from backups.stores.store import Source, Store
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment, Server
from tests.memory_store import MemoryStore
from tests.unit.backups import DEPLOYMENT, NOON, manifest, put, put_drill

DAY = dt.timedelta(days=1)


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "store")


class CountingStore(MemoryStore):
    """Remembers what was read, and how many read at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.most_at_once = 0
        self._now = 0

    @contextmanager
    def read(self, name: str) -> Iterator[Source]:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        self.reads.append(name)
        time.sleep(0.01)  # the way to a store and back
        with super().read(name) as source:
            yield source
        self._now -= 1


def test_a_store_that_was_never_written_to_holds_nothing(store: Store) -> None:
    catalog = read_catalog(store, DEPLOYMENT)
    assert (catalog.backups, catalog.damaged, catalog.incomplete) == ((), (), {})


def test_backups_are_listed_by_when_they_were_made_and_not_by_their_names(store: Store) -> None:
    put(store, manifest("a", NOON))
    put(store, manifest("b", NOON - DAY))
    put(store, manifest("c", NOON + DAY))
    assert [backup.id for backup in read_catalog(store, DEPLOYMENT).backups] == ["b", "a", "c"]


def test_a_manifest_that_is_a_link_is_damage_and_not_the_lack_of_a_backup(tmp_path: Path) -> None:
    store, made = FolderStore(tmp_path / "store"), manifest("a", NOON)
    put(store, made)
    folder = tmp_path / "store" / DEPLOYMENT / made.id
    (folder / MANIFEST).rename(tmp_path / "elsewhere.json")
    (folder / MANIFEST).symlink_to(tmp_path / "elsewhere.json")
    catalog = read_catalog(store, DEPLOYMENT)
    assert (catalog.backups, catalog.incomplete) == ((), {})
    assert [each.error.code for each in catalog.damaged] == ["object-is-link"]
    with pytest.raises(LettaOpsError, match="symbolic link"):
        catalog.find(made.id)


def test_marks_and_verdicts_that_are_links_take_no_backup_away(tmp_path: Path) -> None:
    store, made = FolderStore(tmp_path / "store"), manifest("a", NOON)
    put(store, made)
    (backup,) = read_catalog(store, DEPLOYMENT).backups
    folder = tmp_path / "store" / DEPLOYMENT / made.id
    (folder / KEEP).symlink_to("/nowhere")
    (folder / "drills").mkdir()
    (folder / "drills" / "one.json").symlink_to("one.json")
    (folder / "through").symlink_to(folder / MANIFEST / "x")
    (found,) = read_catalog(store, DEPLOYMENT).backups
    assert found.manifest == backup.manifest
    assert found.kept is not None  # somebody marked it
    assert found.drills == ()


def test_the_manifest_comes_back_as_it_was_stored(store: Store) -> None:
    made = manifest(label="before the migration", encryption="age-recipients")
    put(store, made)
    (backup,) = read_catalog(store, DEPLOYMENT).backups
    assert backup.manifest == made
    assert (backup.kept, backup.drills, backup.last_drill) == (None, (), None)


def test_backups_of_another_deployment_are_listed_only_when_asked_for(store: Store) -> None:
    put(store, manifest("mine"))
    put(store, manifest("theirs", deployment="other"))
    assert [each.id for each in read_catalog(store, DEPLOYMENT).backups] == ["mine"]
    assert {each.id for each in read_catalog(store, None).backups} == {"mine", "theirs"}


def test_what_has_no_manifest_is_no_backup_however_much_of_it_there_is(store: Store) -> None:
    folder = put(store, manifest("torn"))
    store.delete(folder + MANIFEST)
    write_object(store, f"{DEPLOYMENT}/lock.json", "{}")
    catalog = read_catalog(store, DEPLOYMENT)
    assert (catalog.backups, catalog.damaged) == ((), ())
    assert list(catalog.incomplete) == [folder]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "manifest-damaged"),
        ("no json", "manifest-damaged"),
        ("[]", "manifest-damaged"),
        ('{"format": 1, "sha256": "0"}', "manifest-damaged"),
        ('{"format": 99, "sha256": "0"}', "manifest-newer"),
        (manifest("a").as_text().replace("public.agents", "public.agent5"), "manifest-damaged"),
        (manifest("another").as_text(), "manifest-damaged"),
        (manifest("a", deployment="another").as_text(), "manifest-damaged"),
    ],
)
def test_a_manifest_that_is_not_what_was_written_is_damaged_and_hides_no_other(
    text: str, code: str, store: Store
) -> None:
    put(store, manifest("good"))
    folder = put(store, manifest("a"))
    write_object(store, folder + MANIFEST, text)
    catalog = read_catalog(store, DEPLOYMENT)
    assert [backup.id for backup in catalog.backups] == ["good"]
    (damaged,) = catalog.damaged
    assert (damaged.id, damaged.deployment, damaged.error.code) == ("a", DEPLOYMENT, code)
    with pytest.raises(LettaOpsError) as caught:
        catalog.find("a")
    assert caught.value.code == code


def test_what_is_pruned_while_the_catalogue_is_read_is_simply_gone() -> None:
    class Pruned(MemoryStore):
        @contextmanager
        def read(self, name: str) -> Iterator[Source]:
            self.delete(name)
            with super().read(name) as source:
                yield source

    store = Pruned()
    put(store, manifest("a"))
    assert read_catalog(store, DEPLOYMENT).backups == ()


def test_a_mark_keeps_its_reason_until_it_is_taken_away(store: Store) -> None:
    folder = put(store, manifest("a"))
    (backup,) = read_catalog(store, DEPLOYMENT).backups
    keep(store, backup, "before the migration", NOON)
    assert read_catalog(store, DEPLOYMENT).backups[0].kept == "before the migration"
    keep(store, backup, None, NOON)
    assert read_catalog(store, DEPLOYMENT).backups[0].kept == "no reason given"
    write_object(store, folder + KEEP, "not even json")
    assert read_catalog(store, DEPLOYMENT).backups[0].kept == "no reason given"
    release(store, backup)
    release(store, backup)
    assert read_catalog(store, DEPLOYMENT).backups[0].kept is None


def test_the_last_drill_is_the_one_that_counts_and_the_older_are_read_only_when_asked_for() -> None:
    store = CountingStore()
    made = manifest("a")
    put(store, made)
    verdicts = ["passed", "passed", "failed", "unverified"]
    names = [
        put_drill(store, made, verdict, NOON + number * DAY)
        for number, verdict in enumerate(verdicts)
    ]
    (backup,) = read_catalog(store, DEPLOYMENT).backups
    assert [drill.verdict for drill in backup.drills] == verdicts[1:]
    assert backup.last_drill is not None
    assert backup.last_passed is not None
    assert (backup.last_drill.verdict, backup.last_passed.at) == ("unverified", NOON + DAY)
    assert backup.judged == "failed"
    assert names[0] not in store.reads
    (backup,) = read_catalog(store, DEPLOYMENT, every_drill=True).backups
    assert [drill.verdict for drill in backup.drills] == verdicts


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"at": "2026-11-20T12:00:00", "verdict": "passed", "seconds": 1}']
)
def test_a_verdict_that_cannot_be_read_is_none(text: str, store: Store) -> None:
    made = manifest("a")
    write_object(store, put_drill(store, made, "passed", NOON), text)
    put(store, made)
    assert read_catalog(store, DEPLOYMENT).backups[0].drills == ()


def test_many_manifests_are_read_some_at_a_time() -> None:
    store = CountingStore()
    for number in range(100):
        put(store, manifest(created_at=NOON + number * DAY))
    catalog = read_catalog(store, DEPLOYMENT)
    assert len(catalog.backups) == len(store.reads) == 100
    assert 2 <= store.most_at_once <= THREADS
    assert list(catalog.backups) == sorted(catalog.backups, key=lambda b: b.manifest.created_at)


def test_an_error_of_the_store_is_not_an_empty_catalogue() -> None:
    class Denied(MemoryStore):
        @contextmanager
        def read(self, name: str) -> Iterator[Source]:
            if name:
                raise LettaOpsError("store-denied", "no", "ask")
            yield io.BytesIO()

    store = Denied()
    put(store, manifest("a"))
    with pytest.raises(LettaOpsError, match="no"):
        read_catalog(store, DEPLOYMENT)


def test_threads_of_a_store_that_hangs_do_not_keep_the_program_from_its_end() -> None:
    daemons = in_parallel(lambda _: threading.current_thread().daemon, range(20))
    assert daemons == [True] * 20


def test_the_first_error_stops_the_rest_of_the_work() -> None:
    done = []

    def work(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        time.sleep(0.001)
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        in_parallel(work, range(10_000))
    assert len(done) < 1_000


def test_a_backup_is_found_by_the_beginning_of_its_id_unless_two_begin_so(store: Store) -> None:
    put(store, manifest("20261120T120000Z-ab12"))
    put(store, manifest("20261121T120000Z-cd34", NOON + DAY))
    catalog = read_catalog(store, DEPLOYMENT)
    assert catalog.find("20261120").id == "20261120T120000Z-ab12"
    assert catalog.find("latest").id == "20261121T120000Z-cd34"
    with pytest.raises(LettaOpsError, match="is the beginning of") as caught:
        catalog.find("202611")
    assert caught.value.code == "ambiguous-backup"
    with pytest.raises(LettaOpsError) as caught:
        catalog.find("2025")
    assert caught.value.code == "no-backup"


def test_an_id_that_is_the_beginning_of_another_is_found_by_itself(store: Store) -> None:
    put(store, manifest("a"))
    put(store, manifest("ab", NOON + DAY))
    assert read_catalog(store, DEPLOYMENT).find("a").id == "a"


def test_a_server_without_an_id_is_known_by_its_url_however_it_is_written() -> None:
    def id_of(url: str) -> str:
        return deployment_id(Deployment("prod", "external", Server(url)))

    assert id_of("https://letta.example.com") == id_of("https://LETTA.example.com:443/")
    assert id_of("https://letta.example.com") != id_of("https://other.example.com")
    assert id_of("https://letta.example.com/a") != id_of("https://letta.example.com/b")
    assert deployment_id(Deployment("prod", "local", Server("http://x"), id="mine")) == "mine"


@pytest.mark.parametrize("id_", ["", "a/b", "../other", ".hidden", "a b"])
def test_an_id_that_could_lead_elsewhere_is_refused(id_: str) -> None:
    deployment = replace(Deployment("prod", "external", Server("http://x")), id=id_)
    with pytest.raises(LettaOpsError, match="can't be the name of a folder"):
        deployment_id(deployment)
