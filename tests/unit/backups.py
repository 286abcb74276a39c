"""Backups for tests: manifests without the data that they tell of, and what lies beside them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Any

from backups.catalog import folder_of, write_object
from backups.manifest import (
    CONFIGURATION,
    DATABASE,
    DRILLS,
    MANIFEST,
    DatabaseRecord,
    Manifest,
    Memory,
    Part,
    Table,
)
from backups.stores.store import Store

DEPLOYMENT = "0d3b0d9e-7f43-4b5a-9a51-5b1d3cf5a001"
NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)
CONTENT = b"a part of a backup"


def manifest(
    id: str | None = None,  # noqa: A002  # as the field is called
    created_at: dt.datetime = NOON,
    **changes: Any,
) -> Manifest:
    """A complete manifest; its id follows from `created_at`, its parts are `CONTENT`."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    objects = {DATABASE: "database.dump.zst", CONFIGURATION: "config.zst"}
    tables = {"agents": 3, "messages": 41, "block": 7}
    values: dict[str, Any] = {
        "id": id or f"{created_at:%Y%m%dT%H%M%SZ}-ab12",
        "deployment": DEPLOYMENT,
        "stack": "prod",
        "created_at": created_at,
        "seconds": 12.5,
        "release": "0.16.8",
        "target": "local",
        "label": None,
        "parts": tuple(
            Part(name, stored, len(CONTENT), digest, len(CONTENT), digest)
            for name, stored in objects.items()
        ),
        "database": DatabaseRecord(
            name="letta",
            schema="public",
            revision="1c28e167b74f",
            postgres="18.4",
            pgvector="0.8.5",
            pgvector_schema="public",
            encoding="UTF8",
            tables={f"public.{name}": Table(rows, digest) for name, rows in tables.items()},
            sequences={"public.message_seq": 41},
        ),
        "memory": Memory(0, 0, digest),
        "newest_message_at": created_at - dt.timedelta(minutes=1),
        "encryption": None,
        "recipients": (),
        "key_fingerprint": None,
        "key_escrowed": False,
    }
    return Manifest(**{**values, **changes})


def put(store: Store, made: Manifest) -> str:
    """Store `made` and its parts; return the folder."""
    folder = folder_of(made.deployment, made.id)
    for part in made.parts:
        write_object(store, folder + part.object, CONTENT.decode())
    write_object(store, folder + MANIFEST, made.as_text())
    return folder


def put_drill(
    store: Store, made: Manifest, verdict: str, at: dt.datetime, seconds: float = 41.0
) -> str:
    """Store the verdict of a drill of `made`; return its name."""
    name = f"{folder_of(made.deployment, made.id)}{DRILLS}{at:%Y%m%dT%H%M%SZ}.json"
    document = {"at": at.isoformat(), "verdict": verdict, "seconds": seconds}
    write_object(store, name, json.dumps(document))
    return name
