"""The manifest: what a backup holds. Written last, so that a backup exists if and only if it does."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from infra.errors import LettaOpsError

# 1 knew nothing of extensions and rights, 2 nothing of scopes, 3 nothing of large objects and views.
FORMAT = 4
LATER = {3: ("scope", "types", "leaning"), 4: ("large_objects", "views")}  # of the database
MANIFEST = "manifest.json"
KEEP = "keep.json"  # beside it: a mark that prune respects
DRILLS = "drills/"

# Of a backup, and of a restore: all that is in the database, or what is Letta's and ours.
WHOLE, LETTA = "database", "letta"

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
class Extension:
    version: str
    schema: str


@dataclass(frozen=True)
class Address:
    """An object of a database, as `pg_identify_object_as_address` names it."""

    type: str
    names: tuple[str, ...]
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f"({', '.join(self.arguments)})" if self.arguments else ""
        return f"{self.type} {'.'.join(self.names)}{shown}"

    @classmethod
    def parse(cls, values: Any) -> Address:
        return cls(values["type"], tuple(values["names"]), tuple(values["arguments"]))


# Grantee ("" is everybody), privilege, and whether it may be handed on.
Acl = tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True)
class EventTrigger:
    """`enabled` as `pg_event_trigger.evtenabled` has it."""

    name: str
    event: str
    tags: tuple[str, ...]
    function: Address
    enabled: str
    comment: str | None
    of_administrator: bool  # who made its function


@dataclass(frozen=True)
class Rights:
    """Whose the objects of a database are and who may do what, as far as it isn't as it is made.

    `owner` is the role whose Letta's tables are; what is the owner's is not listed. `policies` (with
    their roles) and `privileged`, which its owner could not make, are by what a dump's table of
    contents calls them: the numbers of their catalog and of their row.
    """

    owner: str
    owners: tuple[tuple[Address, str], ...] = ()
    grants: tuple[tuple[Address, Acl], ...] = ()
    # Of what a role makes later (`pg_default_acl`): role, schema, kind.
    default_grants: tuple[tuple[str, str | None, str, Acl], ...] = ()
    policies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    privileged: Mapping[str, Address] = field(default_factory=dict)
    event_triggers: tuple[EventTrigger, ...] = ()

    @classmethod
    def parse(cls, values: Any) -> Rights:
        def acl(rows: Any) -> Acl:
            return tuple((str(row[0]), str(row[1]), bool(row[2])) for row in rows)

        return cls(
            values["owner"],
            tuple((Address.parse(each), role) for each, role in values["owners"]),
            tuple((Address.parse(each), acl(rows)) for each, rows in values["grants"]),
            tuple((*key, acl(rows)) for *key, rows in values["default_grants"]),
            {key: tuple(roles) for key, roles in values["policies"].items()},
            {key: Address.parse(each) for key, each in values["privileged"].items()},
            tuple(
                EventTrigger(
                    **{
                        **each,
                        "tags": tuple(each["tags"]),
                        "function": Address.parse(each["function"]),
                    }
                )
                for each in values["event_triggers"]
            ),
        )


@dataclass(frozen=True)
class Properties:
    """What belongs to a database itself. `provider` as `pg_database.datlocprovider` has it; `settings`
    are pairs of a role (None: everybody's) and `name=value`; a limit of -1 is none."""

    provider: str
    collate: str
    ctype: str
    locale: str | None
    rules: str | None
    tablespace: str
    connections: int
    settings: tuple[tuple[str | None, str], ...] = ()

    @classmethod
    def parse(cls, values: Any) -> Properties:
        pairs = tuple((role, assignment) for role, assignment in values["settings"])
        return cls(**{**values, "settings": pairs})


@dataclass(frozen=True)
class DatabaseRecord:
    """The database as it was dumped. `tables` and `sequences` are by `schema.name`; `extensions`, in
    the order in which they were made, `rights` and `properties` are not known of backups of format 1.

    In the scope `letta` the dump has no types: they are in `types`, each with its words. `leaning` are
    entries of the dump, as `Rights` calls them, that need something of others, which is not in it.

    `large_objects` are counted like a table's rows; `views` are the materialized ones, by `schema.name`,
    with their rows: a restore fills them anew. None: not of this scope, or of an earlier format."""

    name: str
    schema: str | None  # where Letta's tables are
    revision: str | None
    postgres: str
    pgvector: str | None
    pgvector_schema: str | None
    encoding: str
    tables: Mapping[str, Table]
    sequences: Mapping[str, int]  # last values, read before the snapshot
    extensions: Mapping[str, Extension] = field(default_factory=dict)
    rights: Rights | None = None
    properties: Properties | None = None
    scope: str = WHOLE
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaning: Mapping[str, str] = field(default_factory=dict)
    large_objects: Table | None = None
    views: Mapping[str, int] | None = None

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
class Signature:
    """See `backups.signing`: who signed the manifest's digest, and what came of it."""

    signer: str
    value: str


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
    warnings: tuple[str, ...] = ()  # by what its restore may fail
    signature: Signature | None = None  # not of backups of format 1

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
        signature = {"signature": asdict(self.signature)} if self.signature else {}
        whole = {**self._body(), "sha256": self.digest(), **signature}
        return json.dumps(whole, default=_plain, indent=1)

    def digest(self) -> str:
        """SHA-256 in hex of all but the signature: what that signs."""
        return _digest(self._body())

    def _body(self) -> dict[str, Any]:
        body = asdict(self)
        del body["signature"]
        database = self.database
        number = 4 if database.views is not None else 3 if database.scope == LETTA else 2
        for later, keys in LATER.items():
            if number < later:  # those of before have none, and are signed without
                for key in keys:
                    del body["database"][key]
        return {"format": number, **body}


def parse_manifest(text: bytes, where: str) -> Manifest:
    """Read a manifest.

    Raises LettaOpsError: `manifest-newer` for a format that we don't know, `manifest-damaged` for
    what isn't one, or was altered.
    """
    try:
        document = json.loads(text)
        claimed, signature = document.pop("sha256"), document.pop("signature", None)
        newer = int(document["format"]) > FORMAT
        if not newer and claimed != _digest(document):
            raise ValueError("its own digest does not fit")  # noqa: TRY301
        if not newer:
            return _manifest(document, signature)
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


def _manifest(document: dict[str, Any], signature: dict[str, str] | None) -> Manifest:
    values = {key: value for key, value in document.items() if key != "format"}
    database = values["database"]
    tables = {name: Table(**table) for name, table in database["tables"].items()}
    extensions = {name: Extension(**each) for name, each in database.get("extensions", {}).items()}
    rights = Rights.parse(database["rights"]) if database.get("rights") else None
    properties = Properties.parse(database["properties"]) if database.get("properties") else None
    large = database.get("large_objects")
    parsed = {
        "tables": tables,
        "large_objects": Table(**large) if large else None,
        "extensions": extensions,
        "rights": rights,
        "properties": properties,
        "types": {name: tuple(words) for name, words in database.get("types", {}).items()},
    }
    newest = values["newest_message_at"]
    return Manifest(
        **{
            **values,
            "created_at": dt.datetime.fromisoformat(values["created_at"]),
            "newest_message_at": dt.datetime.fromisoformat(newest) if newest else None,
            "parts": tuple(Part(**part) for part in values["parts"]),
            "database": DatabaseRecord(**{**database, **parsed}),
            "memory": Memory(**values["memory"]),
            "recipients": tuple(values["recipients"]),
            "warnings": tuple(values.get("warnings", ())),
            "signature": Signature(**signature) if signature else None,
        }
    )


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, default=_plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    raise TypeError(f"a manifest can't hold {type(value).__name__}")
