"""What an application has hung on Letta's tables, and hanging it on others of the same names.

Foreign keys, views, policies, triggers, grants, publications and statistics are read before the tables
change places, as statements; in the same transaction they are taken off those that go and made anew on
those that come. What can't be is told with its reason, and nothing begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.restoring.hung import Hung, read_hung
from backups.restoring.standing import Standing, give_standing
from backups.scope import Own

if TYPE_CHECKING:
    import psycopg


@dataclass(frozen=True)
class Hanging:
    """All that hangs on one set of Letta's tables, and how these stand themselves."""

    schema: str
    things: tuple[Hung, ...]
    standing: Standing

    @property
    def refusals(self) -> list[str]:
        return [f"{each.what}: {each.refused}" for each in self.things if each.refused]


def read_hanging(link: psycopg.Connection[Any], schema: str, own: Own) -> Hanging:
    """Read what hangs on the tables `own`, which are in `schema`; `link` has no search path but
    pg_catalog, so that everything is named with its schema. Raises psycopg.Error."""
    return Hanging(schema, tuple(read_hung(link, own)), Standing.of(link, own))


def take_off(link: psycopg.Connection[Any], hanging: Hanging, coming: Iterable[str]) -> None:
    """Take off what is made anew: what is part of a table that has none of its name among those that
    are `coming` stays on it."""
    there = set(coming)
    for each in hanging.things:
        if each.on is None or each.on in there:
            for statement in each.off:
                link.execute(statement)


def hang(
    link: psycopg.Connection[Any], hanging: Hanging, coming: Iterable[str], own: Own
) -> Iterator[str]:
    """Make anew, on what is in the schema now (`own`), what was taken off; yield in words what is not
    as it was."""
    import psycopg

    there, now = set(coming), Standing.of(link, own)
    for table, part in sorted(hanging.standing.parts - now.parts):
        if table in there:
            yield f"{part} of table {table} stays with what was replaced: what comes has none"
    give_standing(link, hanging.schema, hanging.standing, now, own)
    for each in hanging.things:
        if each.refused:
            yield f"{each.what} stays with what was replaced: {each.refused}"
            continue
        if each.on is not None and each.on not in there:
            yield f"{each.what} stays with what was replaced: there is no table {each.on} now"
            continue
        try:
            with link.transaction():
                for statement in each.anew:
                    link.execute(statement)
        except psycopg.errors.ForeignKeyViolation as error:
            for statement in each.otherwise:
                link.execute(statement)
            detail = error.diag.message_detail or str(error).strip()
            yield (
                f"{each.what} is made NOT VALID, since rows refer to what is not there now ({detail}):"
                " delete these, then validate it"
            )
