"""Parts are stored and read back; what was altered, cut or closed to us is told apart."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from backups.catalog import Backup, folder_of, read_object, write_object
from backups.create import _Writing  # it alone writes parts; making a whole backup needs a server
from backups.crypto import new_identity
from backups.encryption import Encryption, encryption_of
from backups.manifest import DATABASE, KEY_ESCROW, MANIFEST, PASSPHRASE_KEY
from backups.opening import Key, escrowed_key, opened_part, stored_chunks
from backups.streams import chunks_of
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSection, BackupSettings
from tests.memory_store import MemoryStore
from tests.unit.backups import manifest

IDENTITY, RECIPIENT = new_identity()
BY_RECIPIENT = Encryption("age-recipients", (RECIPIENT,), (RECIPIENT,))
KEY = Key((IDENTITY,))
# More than a chunk of age and of zstd, and nothing that could be compressed away.
CONTENT = random.Random(1).randbytes(300_000)  # noqa: S311


def made(encryption: Encryption, content: bytes = CONTENT) -> tuple[MemoryStore, Backup]:
    store, empty = MemoryStore(), manifest()
    folder = folder_of(empty.deployment, empty.id)
    writing = _Writing(store, folder, encryption, print, [])
    parts = [writing.part(DATABASE, [content], ending=".dump")]
    if encryption.sealed_identity is not None:
        parts.append(writing.sealed(PASSPHRASE_KEY, encryption.sealed_identity))
    parts.append(writing.part(KEY_ESCROW, [b"the server's key"]))
    whole = replace(
        empty, parts=tuple(parts), encryption=encryption.kind, recipients=encryption.shown
    )
    write_object(store, folder + MANIFEST, whole.as_text())
    return store, Backup(whole, None, ())


def read(store: MemoryStore, backup: Backup, key: Key = KEY, name: str = DATABASE) -> bytes:
    with opened_part(store, backup, name, key) as source:
        return b"".join(chunks_of(source))


def changed(store: MemoryStore, name: str, change: Callable[[bytes], bytes]) -> None:
    data = change(read_object(store, name))
    with store.write(name) as sink:
        sink.write(data)


@pytest.mark.parametrize("content", [b"", b"few bytes", CONTENT])
@pytest.mark.parametrize("encryption", [Encryption(), BY_RECIPIENT])
def test_what_went_in_comes_out(encryption: Encryption, content: bytes) -> None:
    store, backup = made(encryption, content)
    assert read(store, backup) == content
    part = backup.manifest.part(DATABASE)
    assert part is not None
    assert part.object == "database.dump.zst" + (".age" if encryption.on else "")
    if encryption.on and content:
        assert content not in read_object(store, backup.object(part.object))


def test_the_key_that_is_kept_along_opens_with_the_identity() -> None:
    store, backup = made(BY_RECIPIENT)
    kept = escrowed_key(store, backup, KEY)
    assert kept is not None
    assert kept.reveal() == "the server's key"
    none = replace(backup, manifest=replace(backup.manifest, parts=()))
    assert escrowed_key(store, none, KEY) is None


def test_several_identities_are_tried_and_comments_between_them_are_none() -> None:
    store, backup = made(BY_RECIPIENT)
    other, _ = new_identity()
    text = f"# made by somebody\n\n{other.reveal()}\n# and\n{IDENTITY.reveal()}\n"
    assert read(store, backup, Key((Sensitive(text),))) == CONTENT


ALTERATIONS: dict[str, Callable[[bytes], bytes]] = {
    "header": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "early": lambda data: data[:200] + bytes([data[200] ^ 128]) + data[201:],
    "middle": lambda data: data[: len(data) // 2] + b"\0\0" + data[len(data) // 2 + 2 :],
    "tail": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "twice": lambda data: data + data,
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
@pytest.mark.parametrize("encryption", [Encryption(), BY_RECIPIENT])
def test_whatever_was_altered_nobody_reads_to_the_end_of(
    encryption: Encryption, alteration: str
) -> None:
    store, backup = made(encryption)
    part = backup.manifest.parts[0]
    changed(store, backup.object(part.object), ALTERATIONS[alteration])
    with pytest.raises(LettaOpsError) as caught:
        read(store, backup)
    assert caught.value.code == "part-damaged"
    with pytest.raises(LettaOpsError, match="size or SHA-256"):
        list(stored_chunks(store, backup, part))


def test_every_byte_of_a_small_part_counts() -> None:
    store, backup = made(BY_RECIPIENT, b"small")
    name = backup.object(backup.manifest.parts[0].object)
    whole = read_object(store, name)
    for position in range(len(whole)):
        altered = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        changed(store, name, lambda _, altered=altered: altered)  # type: ignore[misc]
        with pytest.raises(LettaOpsError) as caught:
            read(store, backup)
        if caught.value.code == "wrong-identity":  # it was among what tells the recipients
            assert "verify" in caught.value.hint
            with pytest.raises(LettaOpsError, match="size or SHA-256"):
                list(stored_chunks(store, backup, backup.manifest.parts[0]))
        else:
            assert caught.value.code == "part-damaged", position


def test_a_part_in_the_place_of_another_is_damage() -> None:
    store, backup = made(BY_RECIPIENT)
    first, second = (backup.object(part.object) for part in backup.manifest.parts)
    other = read_object(store, second)
    changed(store, first, lambda _: other)
    with pytest.raises(LettaOpsError) as caught:
        read(store, backup)
    assert caught.value.code == "part-damaged"


def test_a_part_that_is_gone_is_named() -> None:
    store, backup = made(BY_RECIPIENT)
    store.delete(backup.object(backup.manifest.parts[0].object))
    with pytest.raises(LettaOpsError, match=r"database\.dump\.zst\.age") as caught:
        read(store, backup)
    assert caught.value.code == "part-missing"


def test_without_a_key_and_with_another_one_it_stays_closed() -> None:
    store, backup = made(BY_RECIPIENT)
    with pytest.raises(LettaOpsError, match="no key") as caught:
        read(store, backup, Key())
    assert caught.value.code == "identity-missing"
    assert RECIPIENT in caught.value.hint
    other, _ = new_identity()
    with pytest.raises(LettaOpsError) as caught:
        read(store, backup, Key((other,)))
    assert caught.value.code == "wrong-identity"


def test_a_passphrase_opens_what_was_made_with_it_and_an_identity_does_not() -> None:
    settings = BackupSettings(backup=BackupSection(passphrase=Sensitive("correct horse")))
    store, backup = made(encryption_of(settings, "s3://bucket"))
    assert read(store, backup, Key(passphrase=Sensitive("correct horse"))) == CONTENT
    for key, code in {
        "wrong-identity": Key(passphrase=Sensitive("battery staple")),
        "identity-missing": KEY,
    }.items():
        with pytest.raises(LettaOpsError) as caught:
            read(store, backup, code)
        assert caught.value.code == key
        assert "horse" not in str(caught.value)


def test_a_sealed_identity_that_was_altered_is_damage_and_not_a_wrong_passphrase() -> None:
    settings = BackupSettings(backup=BackupSection(passphrase=Sensitive("correct horse")))
    store, backup = made(encryption_of(settings, "s3://bucket"))
    part = backup.manifest.part(PASSPHRASE_KEY)
    assert part is not None
    changed(store, backup.object(part.object), ALTERATIONS["middle"])
    with pytest.raises(LettaOpsError) as caught:
        read(store, backup, Key(passphrase=Sensitive("correct horse")))
    assert caught.value.code == "part-damaged"


def test_whoever_stops_reading_early_leaves_nothing_running() -> None:
    import threading

    store, backup = made(BY_RECIPIENT)
    with opened_part(store, backup, DATABASE, KEY) as source:
        assert source.read(10) == CONTENT[:10]
    assert "decrypt" not in {thread.name for thread in threading.enumerate()}


def test_a_reference_that_leads_nowhere_is_told_without_its_value() -> None:
    with pytest.raises(LettaOpsError, match="LETTA_TEST_NOT_THERE") as caught:
        Key.of(BackupSettings(), "env:LETTA_TEST_NOT_THERE")
    assert caught.value.code == "identity"
