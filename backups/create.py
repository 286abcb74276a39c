"""Making a backup: database, git memory and configuration, each in one stream; the manifest last."""

from __future__ import annotations

import datetime as dt
import json
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version

from backups.catalog import deployment_id, folder_of, write_object
from backups.configuration import plain_configuration
from backups.crypto import encrypt_stream
from backups.encryption import Encryption, encryption_of, ensure_as_encrypted
from backups.humanize import size_in_words
from backups.manifest import (
    CONFIGURATION,
    DATABASE,
    KEY_ESCROW,
    MANIFEST,
    MEMORY,
    PASSPHRASE_KEY,
    ROWS,
    Manifest,
    Part,
)
from backups.programs import Version, find_dump
from backups.scope import scope_of
from backups.signing import key_to_sign, signed
from backups.sources.memory_files import read_memory
from backups.sources.postgres import Snapshot, snapshot
from backups.stores.store import Store
from backups.streams import ChunkSource, TalliedSink, Tally, compressed
from infra.embedded.binaries import offered_extensions
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.stack.fingerprint import key_fingerprint
from infra.targets import host

PROGRESS_SECONDS = 5.0
SKEW_SECONDS = 60.0


@dataclass
class _Writing:
    """A backup that is being made: where its parts go, and which are there."""

    store: Store
    folder: str
    encryption: Encryption
    report: Report
    objects: list[str]

    def part(
        self,
        name: str,
        chunks: Iterable[bytes],
        *,
        of: int | None = None,
        ending: str = "",
        table: str | None = None,
    ) -> Part:
        """Stream one part into the store. `of` is about how many bytes will come; `table` is whose
        rows they are."""
        encrypted = self.encryption.on
        stored_name = f"{name}{ending}.zst" + (".age" if encrypted else "")
        plain, stored = Tally(), Tally()
        progress = _Progress(name, plain, of, self.report)
        self.objects.append(self.folder + stored_name)
        with self.store.write(self.folder + stored_name) as sink:
            tallied = TalliedSink(sink, stored, progress.stored)
            source = ChunkSource(compressed(chunks, plain))
            if encrypted:
                encrypt_stream(source, tallied, self.encryption.recipients)
            else:
                shutil.copyfileobj(source, tallied, 1 << 18)
        return Part(
            name,
            stored_name,
            stored.size,
            stored.sha256,
            plain.size,
            plain.sha256,
            "zstd",
            "age" if encrypted else None,
            table,
        )

    def sealed(self, name: str, data: bytes) -> Part:
        """Store bytes that are encrypted by themselves."""
        tally = Tally()
        tally.add(data)
        self.objects.append(f"{self.folder}{name}.age")
        with self.store.write(f"{self.folder}{name}.age") as sink:
            sink.write(data)
        size, digest = tally.size, tally.sha256
        return Part(name, f"{name}.age", size, digest, size, digest)

    def forget(self) -> None:
        """Remove what was stored, the last first, as far as the store answers; `prune` finds the rest.

        A manifest that stays, though it was said to have failed, keeps its parts.
        """
        with suppress(LettaOpsError):
            for name in reversed(self.objects):
                self.store.delete(name)


class _Progress:
    """Says now and then how far a part has come."""

    def __init__(self, name: str, plain: Tally, of: int | None, report: Report) -> None:
        self._name, self._plain, self._of, self._report = name, plain, of, report
        self._stored = 0
        self._said = time.monotonic()

    def stored(self, size: int) -> None:
        self._stored += size
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._said = time.monotonic()
            about = f" (database on disk: {size_in_words(self._of)})" if self._of else ""
            self._report(
                f"{self._name}: {size_in_words(self._plain.size)} read,"
                f" {size_in_words(self._stored)} stored{about}"
            )


def create(
    deployment: Deployment,
    store: Store,
    label: str | None,
    report: Report,
    *,
    allow_plain: bool = False,
) -> Manifest:
    """Make a complete backup of `deployment` in `store`, and return its manifest.

    Consistent: everything of the database comes from one snapshot. Whatever fails, nothing is left
    that is listed as a backup. `allow_plain`: in the clear also beside encrypted ones. Raises
    LettaOpsError.
    """
    started = time.monotonic()
    key = key_to_sign(deployment)
    encryption = encryption_of(deployment.backups, store.url)
    if not allow_plain:
        ensure_as_encrypted(encryption, store)
    now = dt.datetime.now(dt.UTC)
    identifier = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
    folder = folder_of(deployment_id(deployment), identifier)
    writing = _Writing(store, folder, encryption, report, [])
    for limit in store.limits():
        report(f"store: {limit}")
    report("database: taking a snapshot")
    try:
        with (
            host(deployment).administrator() as access,
            snapshot(access, _name_of(deployment), scope_of(deployment)) as taken,
        ):
            # After the snapshot, however long it took to get there: nothing in it is newer.
            now = dt.datetime.now(dt.UTC)
            _warn_of_clocks(now, taken.taken_at, report)
            manifest = _made(deployment, writing, taken, now, identifier, label)
    except BaseException:
        writing.forget()
        raise
    manifest = replace(manifest, seconds=round(time.monotonic() - started, 1))
    manifest = replace(manifest, signature=signed(manifest, key))
    try:
        write_object(store, folder + MANIFEST, manifest.as_text(), exclusive=True)
    except LettaOpsError as error:
        # One without an answer may still arrive: then its parts must be there.
        if error.code not in ("store-unreachable", "object-exists"):
            writing.objects.append(folder + MANIFEST)
            writing.forget()
        raise
    return manifest


def _made(
    deployment: Deployment,
    writing: _Writing,
    taken: Snapshot,
    now: dt.datetime,
    identifier: str,
    label: str | None,
) -> Manifest:
    program = find_dump(taken.server, host(deployment).server_programs())
    writing.report(f"database: dumping {size_in_words(taken.size)} with pg_dump {program.version}")
    parts = [writing.part(DATABASE, taken.dump(program), of=taken.size, ending=".dump")]
    for number, table in enumerate(taken.apart, 1):
        rows = taken.rows(table)
        parts.append(writing.part(ROWS.format(number), rows, ending=".copy", table=str(table)))
    with read_memory(deployment, writing.report) as memory:
        parts.append(writing.part(MEMORY, memory, ending=".tar"))
    text = json.dumps(plain_configuration(deployment), indent=1).encode()
    parts.append(writing.part(CONFIGURATION, [text], ending=".json"))
    parts += _keys(deployment, writing)
    writing.report("counting: comparing what was dumped with its snapshot")
    key = deployment.server.encryption_key
    return Manifest(
        id=identifier,
        deployment=deployment_id(deployment),
        stack=deployment.stack,
        created_at=now,
        seconds=0.0,
        release=deployment.release,
        target=deployment.target,
        label=label,
        parts=tuple(parts),
        database=taken.contents(),
        memory=memory.summary(),
        newest_message_at=taken.newest_message_at,
        encryption=writing.encryption.kind,
        recipients=writing.encryption.shown,
        key_fingerprint=None if key is None else key_fingerprint(key),
        key_escrowed=any(part.name == KEY_ESCROW for part in parts),
        tools={"letta-ops": version("letta-ops"), "pg_dump": program.version},
        packages=dict(host(deployment).packages()),
        warnings=taken.warnings,
    )


def _keys(deployment: Deployment, writing: _Writing) -> Iterator[Part]:
    """What opens the rest: the passphrase's identity, and the server's key if it is to go along."""
    if writing.encryption.sealed_identity is not None:
        yield writing.sealed(PASSPHRASE_KEY, writing.encryption.sealed_identity)
    key = deployment.server.encryption_key
    if key is not None and writing.encryption.on and deployment.backups.backup.escrow:
        yield writing.part(KEY_ESCROW, [key.reveal().encode()])


def key_warning(deployment: Deployment) -> str | None:
    """What to tell whoever could lose the encryption key together with the machine."""
    backups = deployment.backups
    if deployment.server.encryption_key is None or backups.backup.key_copy:
        return None
    if backups.encrypted and backups.backup.escrow:
        return None
    return (
        "no recovery copy of the server's encryption key is configured: without the key the secrets"
        " in this backup are lost; set backup.recipients, so that the key goes along encrypted, or"
        " keep a copy (`letta-ops secret show encryption-key`) and say where with backup.key_copy"
    )


def dump_warning(manifest: Manifest) -> str | None:
    """What to tell of a dump whose program is older than the server that it dumped."""
    program, server = manifest.tools["pg_dump"], Version.parse(manifest.database.postgres)
    if Version.parse(program).is_as_new_as(server):
        return None
    return (
        f"pg_dump {program} is older than the server, PostgreSQL {server}, and may not know all that it"
        f" dumped: put a newer one on PATH (Debian: postgresql-client-{server.major}), and prove this"
        " backup with a drill"
    )


def extension_warning(manifest: Manifest) -> str | None:
    """What to tell of a database with extensions that a drill here could not make."""
    offered = offered_extensions().keys()
    if missing := sorted(set(manifest.database.extensions) - offered):
        return (
            f"no drill on this machine can prove this backup: its PostgreSQL does not offer"
            f" {', '.join(missing)}; nor can it be restored where the server doesn't"
        )
    return None


def signer_notice(manifest: Manifest) -> str | None:
    """What to tell whoever makes the deployment's first signed backup."""
    if manifest.signature is None:
        return None
    return (
        "backups are signed from now on: keep this line beside the identity that opens them, so that a"
        f" new machine knows whose they are: # signer: {manifest.signature.signer}"
    )


def _name_of(deployment: Deployment) -> str:
    assert deployment.database is not None  # noqa: S101  # `Host.administrator` has refused that
    return deployment.database.name


def _warn_of_clocks(here: dt.datetime, there: dt.datetime, report: Report) -> None:
    apart = abs((here - there).total_seconds())
    if apart > SKEW_SECONDS:
        report(
            f"warning: this machine's clock and the database's are {apart:.0f} s apart; ages and"
            " retention go by this machine's"
        )
