"""Reading a part of a backup back: fetched, hashed, decrypted, decompressed, and compared at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from backups.catalog import Backup, read_object
from backups.crypto import damaged, decrypt_stream, open_with_passphrase
from backups.manifest import KEY_ESCROW, PASSPHRASE_KEY, Part
from backups.stores.store import Sink, Source, Store
from backups.streams import (
    ChunkSource,
    TalliedSource,
    Tally,
    chunks_of,
    decompressed,
    pulled,
)
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSettings
from infra.stack.references import resolve


@dataclass(frozen=True)
class Key:
    """What may open encrypted backups: age identities, or the passphrase."""

    identities: tuple[Sensitive, ...] = ()
    passphrase: Sensitive | None = None
    # By backup: a passphrase is slow to try on purpose.
    _unlocked: dict[str, Sensitive] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, settings: BackupSettings, identity: str | None = None) -> Key:
        """Resolve what is configured; `identity`, a reference, goes before it.

        Raises LettaOpsError (`identity`) with a reason that holds no secret.
        """
        try:
            given = Sensitive(resolve(identity)) if identity else settings.identity
            return cls(() if given is None else (given,), settings.passphrase)
        except ValueError as error:
            raise LettaOpsError(
                "identity",
                f"the identity can't be had: {error}",
                "attach or write it there, or name another place with --identity file:PATH",
            ) from None

    def identities_for(self, store: Store, backup: Backup) -> tuple[Sensitive, ...]:
        """The identities to try on `backup`; raises LettaOpsError (`identity-missing`)."""
        manifest = backup.manifest
        part = manifest.part(PASSPHRASE_KEY)
        if part is not None and self.passphrase is not None:
            if backup.id not in self._unlocked:
                sealed = _checked(store, backup, part)
                self._unlocked[backup.id] = open_with_passphrase(sealed, self.passphrase)
            return (self._unlocked[backup.id],)
        if part is None and self.identities:
            return self.identities
        wanted = (
            "its passphrase: give it as backup.passphrase, by reference"
            if part is not None
            else f"an identity of {', '.join(manifest.recipients)}: --identity file:PATH"
        )
        raise LettaOpsError(
            "identity-missing", f"backup {backup.id} is encrypted, and there is no key", wanted
        )


@contextmanager
def opened_part(
    store: Store,
    backup: Backup,
    name: str,
    key: Key,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Iterator[Source]:
    """Yield the plain bytes of a part. Read to its end, it was compared with the manifest.

    `on_bytes` is told how many stored bytes came. Raises LettaOpsError: `part-missing`,
    `part-damaged`, `identity-missing`, `wrong-identity`, and what the store raises.
    """
    part = the_part(backup, name)
    with ExitStack() as stack:
        yield ChunkSource(_plain(stack, store, backup, part, key, on_bytes))


def stored_chunks(store: Store, backup: Backup, part: Part) -> Iterator[bytes]:
    """Yield a part as it is stored, compared with the manifest at its end; raises like `opened_part`."""
    tally = Tally()
    try:
        with store.read(backup.object(part.object)) as source:
            yield from chunks_of(TalliedSource(source, tally))
    except LettaOpsError as error:
        if error.code == "object-is-link":
            raise LettaOpsError("part-damaged", error.message, error.hint) from None
        if error.code != "object-missing":
            raise
        raise LettaOpsError(
            "part-missing",
            f"backup {backup.id} lacks {part.object}, which its manifest names",
            "use another backup (`letta-ops backup list`), and look who deletes in the store",
        ) from None
    if (tally.size, tally.sha256) != (part.size, part.sha256):
        raise damaged(
            f"{part.object} of backup {backup.id}", "is not what was stored (size or SHA-256)"
        )


def escrowed_key(store: Store, backup: Backup, key: Key) -> Sensitive | None:
    """The LETTA_ENCRYPTION_KEY that the backup keeps; None where it keeps none."""
    if backup.manifest.part(KEY_ESCROW) is None:
        return None
    with opened_part(store, backup, KEY_ESCROW, key) as source:
        return Sensitive(b"".join(chunks_of(source)).decode())


def the_part(backup: Backup, name: str) -> Part:
    part = backup.manifest.part(name)
    if part is None:
        raise LettaOpsError(
            "part-missing", f"backup {backup.id} has no part {name}", "use another backup"
        )
    return part


def _plain(
    stack: ExitStack,
    store: Store,
    backup: Backup,
    part: Part,
    key: Key,
    on_bytes: Callable[[int], None],
) -> Iterator[bytes]:
    chunks = _told(stored_chunks(store, backup, part), on_bytes)
    if part.encryption:
        identities = key.identities_for(store, backup)
        stored = chunks

        def decrypt(sink: Sink) -> None:
            source = ChunkSource(stored)
            decrypt_stream(source, sink, identities)
            for _ in chunks_of(source):  # the store's own end is where the hash is compared
                raise damaged(part.object, "there is something behind its end")

        chunks = stack.enter_context(pulled(decrypt))
    if part.compression:
        chunks = decompressed(ChunkSource(chunks))
    tally = Tally()
    try:
        for chunk in chunks:
            tally.add(chunk)
            yield chunk
    except ValueError as error:
        raise damaged(f"{part.object} of backup {backup.id}", str(error)) from None
    if (tally.size, tally.sha256) != (part.plain_size, part.plain_sha256):
        raise damaged(f"{part.object} of backup {backup.id}", "its content is not what went in")


def _told(chunks: Iterator[bytes], on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    for chunk in chunks:
        on_bytes(len(chunk))
        yield chunk


def _checked(store: Store, backup: Backup, part: Part) -> bytes:
    data = read_object(store, backup.object(part.object))
    tally = Tally()
    tally.add(data)
    if (tally.size, tally.sha256) != (part.size, part.sha256):
        raise damaged(f"{part.object} of backup {backup.id}", "is not what was stored")
    return data
