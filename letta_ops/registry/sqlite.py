"""A registry in a file of SQLite: for a server of which we only have the API, and one machine."""

from __future__ import annotations

import datetime as dt
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from letta_ops.registry.errors import RegistryUnavailable
from letta_ops.registry.links import Event, Key, Link, Row
from letta_ops.registry.store import VERSION, claimed, ensure_known

MAKE = """
CREATE TABLE registry_links (
    app TEXT NOT NULL, app_agent_id TEXT NOT NULL, folded TEXT NOT NULL, letta_agent_id TEXT UNIQUE,
    server TEXT, linked_at TEXT, linked_by TEXT, reason TEXT, template TEXT, lease TEXT, leased_at REAL,
    PRIMARY KEY (app, app_agent_id)) WITHOUT ROWID;
CREATE INDEX registry_links_folded ON registry_links (app, folded);
CREATE TABLE registry_history (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, app TEXT NOT NULL,
    app_agent_id TEXT NOT NULL, what TEXT NOT NULL, letta_agent_id TEXT, before TEXT,
    reason TEXT NOT NULL);
CREATE INDEX registry_history_key ON registry_history (app, app_agent_id);
CREATE VIEW agent_links AS SELECT app, app_agent_id, letta_agent_id, server, linked_at
    FROM registry_links WHERE letta_agent_id IS NOT NULL;
"""
COLUMNS = """app, app_agent_id, letta_agent_id, server, linked_at, linked_by, reason, template,
    lease, leased_at"""
BUSY_SECONDS = 30.0


class SqliteStore:
    """See `letta_ops.registry.store.Store`. The file is made where there is none, for its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._link: sqlite3.Connection | None = None

    def find(self, key: Key) -> Row | None:
        query = f"SELECT {COLUMNS} FROM registry_links WHERE app = ? AND app_agent_id = ?"
        with self._session() as link:
            found = link.execute(query, [key.app, key.id]).fetchone()
        return None if found is None else _row(found)

    def rows(
        self, app: str | None = None, *, agent: str | None = None, folded: str | None = None
    ) -> Iterator[Row]:
        wanted = {"app": app, "letta_agent_id": agent, "folded": folded}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given) or "1"
        query = f"SELECT {COLUMNS} FROM registry_links WHERE {where} ORDER BY 1, 2"
        with self._session() as link:
            found = link.execute(query, list(given.values())).fetchall()
        yield from map(_row, found)

    def replace(self, key: Key, was: Row | None, new: Row | None, event: Event | None) -> bool:
        with self._session() as link:
            try:
                link.execute("BEGIN IMMEDIATE")
                done = self._replaced(link, key, was, new)
                if done and event is not None:
                    values = astuple(event)
                    marks = ", ".join("?" * len(values))
                    link.execute(
                        f"INSERT OR IGNORE INTO registry_history VALUES ({marks})",
                        [_iso(each) if isinstance(each, dt.datetime) else each for each in values],
                    )
                link.execute("COMMIT")
            except sqlite3.IntegrityError:
                link.execute("ROLLBACK")
                raise claimed(str(new and new.agent)) from None
            except BaseException:
                if link.in_transaction:
                    link.execute("ROLLBACK")
                raise
        return done

    def events(
        self, app: str | None = None, app_agent_id: str | None = None, *, agent: str | None = None
    ) -> Iterator[Event]:
        query = (
            "SELECT * FROM registry_history WHERE (:app IS NULL OR app = :app)"
            " AND (:id IS NULL OR app_agent_id = :id)"
            " AND (:agent IS NULL OR :agent IN (letta_agent_id, before)) ORDER BY at DESC, id"
        )
        with self._session() as link:
            asked = {"app": app, "id": app_agent_id, "agent": agent}
            found = link.execute(query, asked).fetchall()
        for identifier, at, *rest in found:
            yield Event(identifier, dt.datetime.fromisoformat(at), *rest)

    def server(self) -> None:
        """It is nobody's own."""

    def close(self) -> None:
        with self._mutex:
            if self._link is not None:
                self._link.close()
                self._link = None

    @staticmethod
    def _replaced(link: sqlite3.Connection, key: Key, was: Row | None, new: Row | None) -> bool:
        same = "app = ? AND app_agent_id = ? AND letta_agent_id IS ? AND lease IS ?"
        before = None if was is None else [key.app, key.id, was.agent, was.lease]
        if new is None:
            if before is None:
                return True  # nothing was there, and nothing is
            return link.execute(f"DELETE FROM registry_links WHERE {same}", before).rowcount == 1
        values = [new.agent, *_of_link(new.link), new.lease, time.time() if new.lease else None]
        if before is None:
            done = link.execute(
                "INSERT INTO registry_links (letta_agent_id, server, linked_at, linked_by, reason,"
                " template, lease, leased_at, app, app_agent_id, folded)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (app, app_agent_id) DO NOTHING",
                [*values, key.app, key.id, key.folded],
            )
        else:
            done = link.execute(
                "UPDATE registry_links SET letta_agent_id = ?, server = ?, linked_at = ?, linked_by = ?,"
                f" reason = ?, template = ?, lease = ?, leased_at = ? WHERE {same}",
                [*values, *before],
            )
        return done.rowcount == 1

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            try:
                if self._link is None:
                    self._link = self._opened()
                yield self._link
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise RegistryUnavailable(
                    f"the registry {self._path} can't be used: {error}",
                    "see that it is a file of this registry, that its folder can be written to, and"
                    " that the disk is not full",
                ) from None

    def _opened(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise RegistryUnavailable(
                f"the registry {self._path} can't be opened: {error.strerror}",
                "see that its folder is there and can be written to",
            ) from None
        link = sqlite3.connect(
            self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        link.execute("PRAGMA synchronous = FULL")
        link.execute("BEGIN IMMEDIATE")
        (version,) = link.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in MAKE.split(";"):
                link.execute(statement)
            link.execute(f"PRAGMA user_version = {VERSION}")
        link.execute("COMMIT")
        ensure_known(version or VERSION, str(self._path))
        return link


def _of_link(link: Link | None) -> list[Any]:
    if link is None:
        return [None] * 5
    template = None if link.template is None else json.dumps(link.template)
    return [link.server, _iso(link.linked_at), link.linked_by, link.reason, template]


def _row(found: tuple[Any, ...]) -> Row:
    app, identifier, agent, server, at, by, reason, template, lease, leased = found
    link = None
    if agent is not None:
        moment = dt.datetime.fromisoformat(at)
        applied = None if template is None else json.loads(template)
        link = Link(app, identifier, agent, server, moment, by, reason, applied)
    age = 0.0 if leased is None else max(0.0, time.time() - leased)
    return Row(Key(app, identifier), link, lease, age)


def _iso(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).isoformat()
