"""A store whose newest backup is encrypted gets no plain one by accident."""

from __future__ import annotations

from typing import Any

import pytest

from backups.catalog import newest_of_all, write_object
from backups.encryption import Encryption, ensure_as_encrypted
from infra.errors import LettaOpsError
from tests.memory_store import MemoryStore
from tests.unit.backups import DEPLOYMENT, manifest, put

LATER, EARLIER = "20261120T130000Z-ab12", "20261119T130000Z-cd34"
SEALED = {"encryption": "age-recipients", "recipients": ("age1abc", "age1def")}


def store_with(**newest: Any) -> MemoryStore:
    store = MemoryStore()
    put(store, manifest(EARLIER, deployment="a-lost-one"))
    put(store, manifest(LATER, **newest))
    write_object(store, f"{DEPLOYMENT}/20261121T130000Z-ef56/database.dump.zst", "half of one")
    return store


def test_the_newest_is_found_by_its_name_whoever_it_belongs_to() -> None:
    newest = newest_of_all(store_with(deployment="a-lost-one"))
    assert newest is not None
    assert (newest.id, newest.manifest.deployment) == (LATER, "a-lost-one")
    assert newest_of_all(MemoryStore()) is None


def test_one_that_is_damaged_is_no_newest() -> None:
    store = store_with()
    write_object(store, f"{DEPLOYMENT}/20261122T130000Z-ef56/manifest.json", "{")
    newest = newest_of_all(store)
    assert newest is not None
    assert newest.id == LATER


def test_a_plain_one_beside_encrypted_ones_is_refused_with_their_recipients() -> None:
    store = store_with(deployment="a-lost-one", **SEALED)
    with pytest.raises(LettaOpsError) as caught:
        ensure_as_encrypted(Encryption(), store)
    assert caught.value.code == "backup-unencrypted"
    assert LATER in caught.value.message
    assert "backup.recipients=age1abc,age1def" in caught.value.hint
    assert "--allow-plain" in caught.value.hint


@pytest.mark.parametrize("newest", [{}, {"encryption": None}])
def test_a_plain_one_beside_plain_ones_and_an_encrypted_one_anywhere_are_welcome(
    newest: dict[str, Any],
) -> None:
    ensure_as_encrypted(Encryption(), store_with(**newest))
    ensure_as_encrypted(Encryption(), MemoryStore())
    ensure_as_encrypted(Encryption("age-recipients", ("age1abc",)), store_with(**SEALED))
