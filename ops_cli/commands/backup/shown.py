"""Backups as answers: what JSON holds of them, and the lines and tables that people read."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from backups.catalog import Backup, Catalog, Damaged, Drill
from backups.humanize import size_in_words, time_in_words
from backups.manifest import LETTA, WHOLE
from ops_cli.output import Part, Table, facts

SCOPES = {WHOLE: "all of the database", LETTA: "what is Letta's in the database"}


def listed(catalog: Catalog, now: dt.datetime) -> list[dict[str, Any]]:
    """The backups of `backup list`, newest first, and after them the damaged ones."""
    return [
        *(summary(backup, now) for backup in reversed(catalog.backups)),
        *(_damaged(each) for each in catalog.damaged),
    ]


def summary(backup: Backup, now: dt.datetime) -> dict[str, Any]:
    manifest = backup.manifest
    return {
        "id": backup.id,
        "deployment": manifest.deployment,
        "stack": manifest.stack,
        "created_at": manifest.created_at.isoformat(),
        "age_seconds": round((now - manifest.created_at).total_seconds()),
        "size": manifest.size,
        "release": manifest.release,
        "revision": manifest.database.revision,
        "agents": manifest.database.rows("agents"),
        "messages": manifest.database.rows("messages"),
        "label": manifest.label,
        "scope": manifest.database.scope,
        "encrypted": manifest.encrypted,
        "kept": backup.kept,
        "drill": backup.last_drill and _drill(backup.last_drill),
    }


def details(backup: Backup, now: dt.datetime) -> dict[str, Any]:
    """Everything that the manifest says, and what lies beside it."""
    manifest = json.loads(backup.manifest.as_text())
    drills = [{**_drill(drill), "document": dict(drill.document)} for drill in backup.drills]
    return {"signature": None, **manifest, **summary(backup, now), "drills": drills}


def render_list(answer: list[dict[str, Any]], *, every_deployment: bool) -> Iterator[Part]:
    if not answer:
        yield "no backups"
        return
    columns = ("id", "age", "size", "release", "revision", "agents", "messages", "label")
    more = ("encrypted", "kept", "drill")
    owner = ("deployment",) if every_deployment else ()
    rows = [
        [*_cells(each), *(each["deployment"] for _ in owner)]
        for each in answer
        if "damaged" not in each
    ]
    if rows:
        yield Table((*columns, *more, *owner), rows)
    for each in answer:
        if "damaged" in each:
            yield f"damaged: {each['id']}: {each['damaged']['message']}"


def render_details(answer: dict[str, Any], now: dt.datetime) -> Iterator[Part]:
    database, memory = answer["database"], answer["memory"]
    yield from facts(
        [
            ("id", answer["id"]),
            ("deployment", f"{answer['deployment']} (stack {answer['stack']})"),
            ("made", f"{answer['created_at']}, {time_in_words(answer['age_seconds'])} ago"),
            ("took", f"{answer['seconds']} s"),
            ("size", size_in_words(answer["size"])),
            ("label", answer["label"]),
            ("release", answer["release"]),
            ("database", f"{database['name']}, PostgreSQL {database['postgres']}"),
            ("scope", SCOPES[answer["scope"]]),
            ("revision", answer["revision"]),
            ("agents", answer["agents"]),
            ("messages", answer["messages"]),
            ("newest message", answer["newest_message_at"]),
            ("memory repositories", memory["repositories"]),
            ("encryption", answer["encryption"] or "none"),
            ("recipients", ", ".join(answer["recipients"]) or None),
            ("encryption key", _key(answer)),
            ("signed by", (answer["signature"] or {}).get("signer") or "nobody"),
            ("kept", answer["kept"] or "no"),
            *(("warning", warning) for warning in answer["warnings"]),
        ]
    )
    yield ""
    yield Table(
        ("part", "object", "table", "size", "plain size", "sha256"),
        [
            (
                part["name"], part["object"], part["table"] or "-",
                size_in_words(part["size"]), size_in_words(part["plain_size"]), part["sha256"],
            )
            for part in answer["parts"]
        ],
    )  # fmt: skip
    yield ""
    tables = database["tables"].items()
    yield Table(("table", "rows"), [(name, table["rows"]) for name, table in tables])
    yield ""
    yield from (f"drill: {_drill_words(drill, now)}" for drill in answer["drills"])
    if not answer["drills"]:
        yield "drill: never; prove it with `letta-ops backup drill`"


def _cells(each: dict[str, Any]) -> list[object]:
    now = dt.datetime.fromisoformat(each["created_at"]) + dt.timedelta(seconds=each["age_seconds"])
    return [
        each["id"],
        time_in_words(each["age_seconds"]),
        size_in_words(each["size"]),
        *("-" if each[name] is None else each[name] for name in ("release", "revision")),
        *("-" if each[name] is None else each[name] for name in ("agents", "messages", "label")),
        "yes" if each["encrypted"] else "no",
        "-" if each["kept"] is None else each["kept"],
        _drill_words(each["drill"], now) if each["drill"] else "never",
    ]


def _drill(drill: Drill) -> dict[str, Any]:
    return {"verdict": drill.verdict, "at": drill.at.isoformat(), "seconds": drill.seconds}


def _drill_words(drill: dict[str, Any], now: dt.datetime) -> str:
    ago = (now - dt.datetime.fromisoformat(drill["at"])).total_seconds()
    return f"{drill['verdict']} {time_in_words(ago)} ago, in {time_in_words(drill['seconds'])}"


def _key(answer: dict[str, Any]) -> str:
    if answer["key_fingerprint"] is None:
        return "the server had none"
    escrow = "a sealed copy is in the backup" if answer["key_escrowed"] else "not in the backup"
    return f"fingerprint {answer['key_fingerprint']}; {escrow}"


def _damaged(each: Damaged) -> dict[str, Any]:
    nothing = dict.fromkeys(
        (
            "stack", "created_at", "age_seconds", "size", "release", "revision", "agents",
            "messages", "label", "scope", "encrypted", "kept", "drill",
        )
    )  # fmt: skip
    return {
        "id": each.id,
        "deployment": each.deployment,
        **nothing,
        "damaged": each.error.as_json(),
    }
