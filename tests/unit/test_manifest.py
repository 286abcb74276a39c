"""The manifest: read as it was written, or known for what it is not."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace

import pytest

from backups.create import dump_warning
from backups.manifest import DATABASE, FORMAT, Memory, _digest, parse_manifest
from infra.errors import LettaOpsError
from tests.unit.backups import CONTENT, manifest


def test_a_manifest_is_read_as_it_was_written() -> None:
    made = manifest(label="ünïcode", memory=Memory(2, 7, "f" * 64), recipients=("age1x",))
    found = parse_manifest(made.as_text().encode(), "here")
    assert found == made
    assert found.created_at.tzinfo is not None
    assert found.as_text() == made.as_text()


def test_what_is_asked_of_it_most_it_knows_by_plain_names() -> None:
    made = manifest()
    assert (made.database.rows("agents"), made.database.rows("nothing")) == (3, None)
    assert made.size == 2 * len(CONTENT)
    assert made.part("nothing") is None
    part = made.part(DATABASE)
    assert part is not None
    assert part.object == "database.dump.zst"
    assert (made.encrypted, manifest(encryption="age-recipients").encrypted) == (False, True)
    assert replace(made, newest_message_at=None).as_text() != made.as_text()


def test_a_database_without_messages_has_no_newest_one() -> None:
    made = manifest(newest_message_at=None)
    assert parse_manifest(made.as_text().encode(), "here").newest_message_at is None


def test_no_byte_of_it_can_be_altered_unseen() -> None:
    text = manifest().as_text().encode()
    for position in range(len(text)):
        altered = bytearray(text)
        altered[position] ^= 1
        with pytest.raises(LettaOpsError) as caught:
            parse_manifest(bytes(altered), "here")
        # Of the number of the format, one that we don't know.
        codes = ("manifest-damaged", "manifest-newer" if position == 13 else "")
        assert caught.value.code in codes, position


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"manifest"',
        b"\xff\xfe",
        b'{"sha256": "x"}',
        b'{"sha256": "x", "format": "one"}',
        b'{"sha256": "x", "format": null}',
        manifest().as_text().encode()[:-20],
        manifest().as_text().encode() + b"{}",
    ],
)
def test_what_is_no_manifest_is_damaged_and_says_where(text: bytes) -> None:
    with pytest.raises(LettaOpsError, match=r"a/b/manifest\.json") as caught:
        parse_manifest(text, "a/b/manifest.json")
    assert caught.value.code == "manifest-damaged"


def test_a_newer_format_is_not_taken_for_damage() -> None:
    document = {"format": FORMAT + 1, "sha256": "x", "everything": "else"}
    with pytest.raises(LettaOpsError, match=f"format {FORMAT + 1}") as caught:
        parse_manifest(json.dumps(document).encode(), "here")
    assert caught.value.code == "manifest-newer"


def test_fields_of_nobody_are_damage_also_with_the_right_digest() -> None:
    import hashlib

    document = json.loads(manifest().as_text())
    del document["sha256"]
    document["parts"][0]["surprise"] = 1
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    document["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    with pytest.raises(LettaOpsError) as caught:
        parse_manifest(json.dumps(document).encode(), "here")
    assert caught.value.code == "manifest-damaged"


def test_times_keep_their_zone() -> None:
    at = dt.datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=dt.UTC)
    found = parse_manifest(manifest(created_at=at).as_text().encode(), "here")
    assert found.created_at == at


@pytest.mark.parametrize(
    ("server", "program", "words"),
    [
        ("18.4", "18.4", None),
        ("17.12", "17.12", None),
        ("17.12", "18.4", "postgresql-client-17"),
        ("19beta1", "19beta1", None),
    ],
)
def test_a_dump_by_a_program_that_is_older_than_the_server_is_told(
    server: str, program: str, words: str | None
) -> None:
    made = manifest(tools={"pg_dump": program})
    told = dump_warning(replace(made, database=replace(made.database, postgres=server)))
    assert (told is None) if words is None else (words in str(told))


def test_the_packages_of_the_images_are_read_back_and_older_manifests_have_none() -> None:
    packages = {"letta-ops/postgres:17-0123456789ab": "libc6=2.41-12 postgresql-17=17.12-0+deb13u1"}
    made = manifest(packages=packages)
    assert parse_manifest(made.as_text().encode(), "here").packages == packages
    older = {key: value for key, value in json.loads(made.as_text()).items() if key != "packages"}
    older["sha256"] = _digest({key: value for key, value in older.items() if key != "sha256"})
    assert parse_manifest(json.dumps(older).encode(), "here") == replace(made, packages={})
