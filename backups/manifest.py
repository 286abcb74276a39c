"""The manifest: what a backup holds. Written last, so that a backup exists if and only if it does."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.errors import LettaOpsError

FORMAT = 1
MANIFEST = "manifest.json"
KEEP = "keep.json"  # beside it: a mark that prune respects
DRILLS = "drills/"

DATABASE = "database"  # names of parts
ROWS = "rows-{}"  # of one table each; the number tells them apart
MEMORY = "memory-files"
CONFIGURATION = "config"
KEY_ESCROW = "encryption-key"
PASSPHRASE_KEY = "passphrase-key"  # noqa: S105  # the name of a part


@dataclass(frozen=True)
class Part:
    """One stored object of a backup. Sizes in bytes; digests are SHA-256 in hex.

    `size` and `sha256` are of what is stored; `plain_size` and `plain_sha256` of what went in,
    before compression and encryption. `table`, as `schema.name`: the part holds its rows, which the
    dump leaves out.
    """

    name: str
    object: str  # its name beside the manifest
    size: int
    sha256: str
    plain_size: int
    plain_sha256: str
    compression: str | None = None  # zstd
    encryption: str | None = None  # age
    table: str | None = None

    @property
    def of_database(self) -> bool:
        return self.name == DATABASE or self.table is not None


@dataclass(frozen=True)
class Table:
    """Rows and content of one table in the snapshot of the dump (see `backups.contents`)."""

    rows: int
    digest: str


@dataclass(frozen=True)
class DatabaseRecord:
    """The database as it was dumped. `tables` and `sequences` are by `schema.name`."""

    name: str
    schema: str | None  # where Letta's tables are
    revision: str | None
    postgres: str
    pgvector: str | None
    pgvector_schema: str | None
    encoding: str
    tables: Mapping[str, Table]
    sequences: Mapping[str, int]  # last values, read before the snapshot

    def rows(self, table: str) -> int | None:
        """How many rows a table of Letta has, by its plain name."""
        found = self.tables.get(f"{self.schema}.{table}")
        return None if found is None else found.rows


@dataclass(frozen=True)
class Memory:
    """Git-backed memory: how many repositories, and a digest over their files."""

    repositories: int
    files: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """One complete backup."""

    id: str
    deployment: str
    stack: str
    created_at: dt.datetime  # when the snapshot was taken, UTC
    seconds: float  # how long it took
    release: str | None
    target: str
    label: str | None
    parts: tuple[Part, ...]
    database: DatabaseRecord
    memory: Memory
    newest_message_at: dt.datetime | None
    encryption: str | None  # age-recipients, age-passphrase, or None
    recipients: tuple[str, ...]
    key_fingerprint: str | None  # of LETTA_ENCRYPTION_KEY
    key_escrowed: bool
    tools: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)  # by image: `name=version ...`

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)

    @property
    def size(self) -> int:
        """Stored bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def plain_database_size(self) -> int:
        """Bytes of the database in the backup, before compression."""
        return sum(part.plain_size for part in self.parts if part.of_database)

    @property
    def encrypted(self) -> bool:
        return self.encryption is not None

    def as_text(self) -> str:
        """JSON with a digest over itself, so that an altered manifest is known for one."""
        body: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        return json.dumps({**body, "sha256": _digest(body)}, default=_plain, indent=1)


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Read a manifest.

    Raises LettaOpsError: `manifest-newer` for a format that we don't know, `manifest-damaged` for
    what isn't one, or was altered.
    """
    try:
        document = json.loads(text)
        claimed = document.pop("sha256")
        newer = int(document["format"]) > FORMAT
        if not newer and claimed != _digest(document):
            raise ValueError("its own digest does not fit")  # noqa: TRY301
        if not newer:
            return _manifest(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LettaOpsError(
            "manifest-damaged",
            f"{where} is no manifest, or was altered: {error}",
            "restore another backup (`letta-ops backup list`); look at the store's versions of it",
        ) from None
    raise LettaOpsError(
        "manifest-newer",
        f"{where} has format {document['format']}, this letta-ops knows {FORMAT}",
        "use the letta-ops that made it, or a newer one",
    )


def _manifest(document: dict[str, Any]) -> Manifest:
    values = {key: value for key, value in document.items() if key != "format"}
    database = values["database"]
    tables = {name: Table(**table) for name, table in database["tables"].items()}
    newest = values["newest_message_at"]
    return Manifest(
        **{
            **values,
            "created_at": dt.datetime.fromisoformat(values["created_at"]),
            "newest_message_at": dt.datetime.fromisoformat(newest) if newest else None,
            "parts": tuple(Part(**part) for part in values["parts"]),
            "database": DatabaseRecord(**{**database, "tables": tables}),
            "memory": Memory(**values["memory"]),
            "recipients": tuple(values["recipients"]),
        }
    )


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    raise TypeError(f"a manifest can't hold {type(value).__name__}")
