"""The migrations of a release, read from its scripts without running one: their order, what each does.

Alembic's own reader would import them, and with them the server. Of what a script says only calls of
`op` are understood, and SQL by its first words: it is a description for people, and decides nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError

# What an operation does to what is there already.
ADDS, CHANGES, REWRITES, DROPS, DATA = "adds", "changes", "rewrites", "drops", "data"
KINDS = {
    "create_table": ADDS,
    "add_column": ADDS,
    "create_index": ADDS,
    "create_foreign_key": CHANGES,
    "create_unique_constraint": CHANGES,
    "create_check_constraint": CHANGES,
    "create_primary_key": CHANGES,
    "drop_constraint": CHANGES,
    "drop_index": CHANGES,
    "alter_column": CHANGES,
    "rename_table": CHANGES,
    "drop_column": DROPS,
    "drop_table": DROPS,
    "bulk_insert": DATA,
}
SQL = {
    "update": DATA,
    "delete": DATA,
    "insert": DATA,
    "truncate": DROPS,
    "drop table": DROPS,
    "alter table": CHANGES,
    "create index": ADDS,
    "create unique index": ADDS,
    "drop index": CHANGES,
    "create type": ADDS,
}
# Calls that are on the table of their block: `with op.batch_alter_table("jobs") as batch_op`.
BATCH = "batch_alter_table"
TABLE_SECOND = ("create_index", "create_foreign_key", "create_unique_constraint", "drop_constraint")


@dataclass(frozen=True)
class Operation:
    """One call of a migration: what it does (`kind`), by which name, to what."""

    kind: str
    name: str
    subject: str

    def __str__(self) -> str:
        return f"{self.name} {self.subject}".rstrip()


@dataclass(frozen=True)
class Revision:
    """One migration: `down` are the revisions that it comes from (none: the first)."""

    id: str
    down: tuple[str, ...]
    title: str
    operations: tuple[Operation, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """What it does, the gravest first, each once."""
        found = {each.kind for each in self.operations}
        return tuple(kind for kind in (DROPS, REWRITES, DATA, CHANGES, ADDS) if kind in found)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "does": list(self.kinds),
            "operations": [asdict(each) for each in self.operations],
        }


@dataclass(frozen=True)
class Revisions:
    """The migrations of one release."""

    release: str
    known: Mapping[str, Revision]

    @classmethod
    def read(cls, release: str, source: Path) -> Revisions:
        """Read those of an unpacked source distribution. Raises LettaOpsError (`release-damaged`)."""
        found = {}
        for path in sorted((source / "alembic" / "versions").glob("*.py")):
            try:
                revision = _revision(ast.parse(path.read_text()))
            except (SyntaxError, ValueError) as error:
                raise LettaOpsError(
                    "release-damaged",
                    f"{path} can't be read: {error}",
                    "remove that release from the cache; it is installed anew",
                ) from None
            if revision is not None:
                found[revision.id] = revision
        return cls(release, found)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Those that nothing comes from: one, unless the release is broken."""
        before = {down for each in self.known.values() for down in each.down}
        return tuple(sorted(self.known.keys() - before))

    def pending(self, revision: str | None) -> list[Revision]:
        """What is still to be run on a database at `revision`, in order; all of it for None.

        Raises LettaOpsError (`revision-unknown`) for one that the release doesn't have.
        """
        if revision is not None and revision not in self.known:
            raise LettaOpsError(
                "revision-unknown",
                f"the database is at revision {revision}, which Letta {self.release} doesn't have",
                "it is newer than that release, or not Letta's: take the release that made it",
            )
        there = {each.id for each in self._up_to([revision] if revision else [])}
        return [each for each in self._up_to(self.heads) if each.id not in there]

    def _up_to(self, ends: Sequence[str]) -> list[Revision]:
        """Everything that leads to `ends`, what comes first before what comes from it."""
        order: dict[str, Revision] = {}
        waiting = [self.known[end] for end in ends]
        while waiting:
            each = waiting[-1]
            missing = [down for down in each.down if down not in order and down in self.known]
            if missing:
                waiting.extend(self.known[down] for down in missing)
            else:
                order.setdefault(waiting.pop().id, each)
        return list(order.values())


def _revision(tree: ast.Module) -> Revision | None:
    names = dict(_assigned(tree))
    if "revision" not in names:
        return None
    down = names.get("down_revision")
    downs = () if down is None else (down,) if isinstance(down, str) else tuple(down)
    title = (ast.get_docstring(tree) or "").strip().partition("\n")[0].strip()
    body = [each for each in tree.body if getattr(each, "name", "") != "downgrade"]
    found = [operation for each in body for operation in _operations(each, "")]
    return Revision(str(names["revision"]), downs, title, tuple(dict.fromkeys(found)))


def _assigned(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for each in tree.body:
        target = each.targets[0] if isinstance(each, ast.Assign) else None
        if isinstance(each, ast.AnnAssign):
            target = each.target
        if isinstance(target, ast.Name) and target.id in ("revision", "down_revision"):
            assert isinstance(each, ast.Assign | ast.AnnAssign)  # noqa: S101  # it has a target
            yield target.id, None if each.value is None else ast.literal_eval(each.value)


def _operations(node: ast.AST, table: str) -> Iterator[Operation]:
    """What `node` calls; `table` is that of the block around it."""
    if isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and _method(call) == BATCH:
                table = _text(call.args[0]) if call.args else table
    if isinstance(node, ast.Call):
        yield from _operation(node, table)
    for child in ast.iter_child_nodes(node):
        yield from _operations(child, table)


def _operation(call: ast.Call, table: str) -> Iterator[Operation]:
    name = _method(call)
    if name == "execute":
        yield from _statements(call)
    elif name == "values" and isinstance(call.func, ast.Attribute):
        # SQLAlchemy's `table.update().where(...).values(...)`, also when it is executed elsewhere.
        written = ast.unparse(call.func.value)
        for word in ("update", "insert", "delete"):
            if match := re.match(rf"(\w+)\.{word}\(\)", written):
                yield Operation(DATA, word.upper(), match.group(1))
    elif name in KINDS:
        kind = KINDS[name]
        if name == "alter_column" and any(each.arg == "type_" for each in call.keywords):
            kind = REWRITES
        yield Operation(kind, name, _subject(call, name, table))


def _subject(call: ast.Call, name: str, table: str) -> str:
    texts = [_text(each) for each in call.args]
    named = {each.arg: _text(each.value) for each in call.keywords if each.arg}
    where = named.get("table_name") or named.get("source_table") or table
    if name in TABLE_SECOND:
        where = where or (texts[1] if len(texts) > 1 else "")
        return f"{where}: {texts[0] if texts else ''}".strip(": ")
    if name == "drop_index":
        return f"{where}: {texts[0] if texts else ''}".strip(": ")
    if name.endswith("_table"):
        return texts[0] if texts else ""
    if not table:
        return ".".join(text for text in texts[:2] if text)
    return ".".join(text for text in (table, *texts[:1]) if text)


def _statements(call: ast.Call) -> Iterator[Operation]:
    for node in ast.walk(call.args[0]) if call.args else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = " ".join(re.sub(r"--.*", "", node.value).split()).lower()
            for begin, kind in SQL.items():
                if text.startswith(begin):
                    yield Operation(kind, "execute", text[:60])


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _text(node: ast.AST) -> str:
    """The name that an argument gives: of a text, of `op.f("...")`, of `sa.Column("...")`."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.Call) and node.args and _method(node) in ("f", "Column"):
        return _text(node.args[0])
    return ""
