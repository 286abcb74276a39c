"""What may hang on Letta's tables: each as statements that take it off, and that make it anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backups.rights import ENABLED
from backups.scope import Own

if TYPE_CHECKING:
    import psycopg
    from psycopg import sql

# What is somebody else's and needs something of ours: each with who it belongs to, where that counts.
OTHERS = """
WITH own AS (SELECT unnest(%(relations)s::oid[]) AS oid), ours (classid, objid) AS (
  SELECT 'pg_class'::regclass::oid, oid FROM own
  UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index JOIN own ON own.oid = indrelid
  UNION ALL SELECT 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN own ON own.oid = conrelid
  UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t JOIN own ON own.oid = typrelid
  UNION ALL SELECT 'pg_type'::regclass, typarray FROM pg_type t JOIN own ON own.oid = typrelid
  UNION ALL SELECT 'pg_type'::regclass, unnest(%(types)s::oid[])
  UNION ALL SELECT 'pg_type'::regclass, typarray FROM pg_type WHERE oid = ANY(%(types)s::oid[])),
parts (classid, objid) AS (
  SELECT * FROM ours
  UNION ALL SELECT 'pg_attrdef'::regclass, a.oid FROM pg_attrdef a JOIN own ON own.oid = adrelid
  UNION ALL SELECT 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN own ON own.oid = polrelid
  UNION ALL SELECT 'pg_trigger'::regclass, t.oid FROM pg_trigger t
    WHERE tgisinternal OR tgrelid IN (SELECT oid FROM own)
  UNION ALL SELECT 'pg_publication_rel'::regclass, r.oid FROM pg_publication_rel r
    JOIN own ON own.oid = prrelid
  UNION ALL SELECT 'pg_statistic_ext'::regclass, s.oid FROM pg_statistic_ext s
    JOIN own ON own.oid = stxrelid
  UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relkind = 't')
SELECT DISTINCT d.classid::regclass::text, d.objid, pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend d JOIN ours o ON o.classid = d.refclassid AND o.objid = d.refobjid
WHERE NOT EXISTS (SELECT FROM parts p WHERE p.classid = d.classid AND p.objid = d.objid)
AND NOT (d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
ORDER BY 1, 2
"""
FOREIGN_KEYS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(c.oid),
  obj_description(c.oid, 'pg_constraint'),
  r.relowner::regrole::text, pg_has_role(r.relowner, 'USAGE'), conparentid <> 0
FROM pg_constraint c JOIN pg_class r ON r.oid = conrelid WHERE c.oid = %s AND contype = 'f'
"""
VIEWS = """
SELECT c.oid::regclass::text, pg_get_viewdef(c.oid), coalesce(c.reloptions, '{}'),
  c.relowner::regrole::text, pg_has_role(c.relowner, 'USAGE')
FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class
WHERE w.oid = %s AND c.relkind = 'v' AND w.rulename = '_RETURN'
"""
POLICIES = """
SELECT p.polname, p.polrelid::regclass::text, p.polpermissive, p.polcmd::text,
  (SELECT array_agg(CASE WHEN r = 0 THEN 'public' ELSE r::regrole::text END)
    FROM unnest(p.polroles) r),
  pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid),
  obj_description(p.oid, 'pg_policy'), c.relname, c.relowner::regrole::text,
  pg_has_role(c.relowner, 'USAGE')
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE p.oid = %(oid)s::oid OR p.polrelid = ANY(%(relations)s::oid[]) ORDER BY p.oid
"""
TRIGGERS = """
SELECT t.tgname, t.tgrelid::regclass::text, pg_get_triggerdef(t.oid), t.tgenabled::text,
  obj_description(t.oid, 'pg_trigger'), c.relname, t.tgfoid::regprocedure::text,
  has_function_privilege(t.tgfoid, 'EXECUTE')
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE t.tgrelid = ANY(%(relations)s::oid[]) AND NOT t.tgisinternal ORDER BY t.oid
"""
RULES = """
SELECT pg_describe_object('pg_rewrite'::regclass, oid, 0) FROM pg_rewrite
WHERE ev_class = ANY(%(relations)s::oid[])
"""
# The columns and the condition of a table in a publication are only since PostgreSQL 15.
PUBLISHED = """
SELECT p.pubname, r.prrelid::regclass::text, c.relname, p.pubowner::regrole::text,
  pg_has_role(p.pubowner, 'USAGE'), {columns}, {condition}
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
JOIN pg_class c ON c.oid = r.prrelid WHERE r.prrelid = ANY(%(relations)s::oid[]) ORDER BY r.oid
"""
COLUMNS_PUBLISHED = """(SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
  WHERE attrelid = r.prrelid AND attnum = ANY(r.prattrs))"""
CONDITION_PUBLISHED = "pg_get_expr(r.prqual, r.prrelid)"
STATISTICS = """
SELECT format('%%I.%%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid), c.relname,
  s.stxowner::regrole::text, pg_has_role(s.stxowner, 'USAGE')
FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
JOIN pg_class c ON c.oid = s.stxrelid WHERE s.stxrelid = ANY(%(relations)s::oid[]) ORDER BY s.oid
"""
ROW_SECURITY = """
SELECT oid::regclass::text, relname, relrowsecurity, relforcerowsecurity FROM pg_class
WHERE oid = ANY(%(relations)s::oid[]) AND relkind = 'r'
"""
INHERITING = """
SELECT i.inhrelid::regclass::text, i.inhparent::regclass::text FROM pg_inherits i
WHERE i.inhrelid = ANY(%(relations)s::oid[])
"""
NOT_OURS = """
SELECT c.oid::regclass::text, c.relowner::regrole::text FROM pg_class c
WHERE c.oid = ANY(%(relations)s::oid[]) AND NOT pg_has_role(c.relowner, 'USAGE')
"""
# At the end of the comment of a constraint that a restore could not make valid.
NOT_VALID = "[not valid since a restore by letta-ops]"
COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}


@dataclass(frozen=True)
class Hung:
    """One thing that hangs on Letta's tables: how it is taken off, and made anew on those of the same
    names. `on`: the table of Letta's that it is part of; None: it belongs to something of others.

    `otherwise`: how a foreign key is made where rows refer to what isn't there any more.
    """

    what: str
    on: str | None = None
    off: tuple[sql.Composed, ...] = ()
    anew: tuple[sql.Composed, ...] = ()
    otherwise: tuple[sql.Composed, ...] = ()
    refused: str | None = None


def read_hung(link: psycopg.Connection[Any], own: Own) -> Iterator[Hung]:
    """Yield what hangs on the tables `own`. Raises psycopg.Error."""
    values = own.parameters
    for table, owner in link.execute(NOT_OURS, values):
        yield Hung(f"table {table}", refused=f"it belongs to {owner}")
    for table, parent in link.execute(INHERITING, values):
        yield Hung(f"table {table}", refused=f"it is part of {parent}")
    for kind, oid, what in link.execute(OTHERS, values).fetchall():
        yield _of_others(link, kind, oid, what)
    for (what,) in link.execute(RULES, values):
        yield Hung(what, refused="rules are not made anew")
    yield from _row_security(link, values)
    for row in link.execute(POLICIES, {**values, "oid": 0}).fetchall():
        yield _policy(row, whole=True)
    for row in link.execute(TRIGGERS, values).fetchall():
        yield _trigger(*row)
    yield from _published(link, values)
    for row in link.execute(STATISTICS, values).fetchall():
        yield _statistics(*row)


def others_on(link: psycopg.Connection[Any], own: Own) -> list[str]:
    """What of others needs something of `own`, in words. Raises psycopg.Error."""
    return [what for *_, what in link.execute(OTHERS, own.parameters)]


def _of_others(link: psycopg.Connection[Any], kind: str, oid: int, what: str) -> Hung:
    """Something of an application that needs something of Letta's."""
    if kind == "pg_constraint" and (row := link.execute(FOREIGN_KEYS, [oid]).fetchone()):
        return _foreign_key(what, *row)
    if kind == "pg_rewrite" and (row := link.execute(VIEWS, [oid]).fetchone()):
        return _view(*row)
    if kind == "pg_policy":
        values = {"oid": oid, "relations": []}
        return next(_policy(row, whole=False) for row in link.execute(POLICIES, values))
    return Hung(what, refused="it needs these very tables, and can't be made anew")


def _foreign_key(
    what: str, table: str, name: str, text: str, comment: str | None, owner: str,
    may: bool, partial: bool,
) -> Hung:  # fmt: skip
    from psycopg import sql

    if partial or not may:
        why = "it is part of a table's partition" if partial else f"its table belongs to {owner}"
        return Hung(what, refused=why)
    whose, constraint = sql.SQL(table), sql.Identifier(name)
    if (comment or "").endswith(NOT_VALID):  # an earlier restore has made it so
        text, comment = text.removesuffix(" NOT VALID"), (comment or "")[: -len(NOT_VALID)].rstrip()
    off = sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(whose, constraint)
    add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(whose, constraint, sql.SQL(text))
    say = sql.SQL("COMMENT ON CONSTRAINT {} ON {} IS {}")
    said = say.format(constraint, whose, sql.Literal(comment or None))
    if text.endswith("NOT VALID"):
        return Hung(what, None, (off,), (add, said))
    marked = say.format(constraint, whose, sql.Literal(f"{comment or ''} {NOT_VALID}".lstrip()))
    return Hung(what, None, (off,), (add, said), (add + sql.SQL(" NOT VALID"), marked))


def _view(view: str, text: str, options: list[str], owner: str, may: bool) -> Hung:
    from psycopg import sql

    if not may:
        return Hung(f"view {view}", refused=f"it belongs to {owner}")
    words = [option.partition("=") for option in options]
    with_options = sql.SQL(", ").join(
        sql.SQL("{}={}").format(sql.SQL(name), sql.Literal(value)) for name, _, value in words
    )
    replace = sql.SQL("CREATE OR REPLACE VIEW {}{} AS {}").format(
        sql.SQL(view),
        sql.SQL(" WITH ({})").format(with_options) if words else sql.SQL(""),
        sql.SQL(text),
    )
    return Hung(f"view {view}", None, (), (replace,))


def _policy(row: Any, *, whole: bool) -> Hung:
    """A policy: of a table of Letta's it is made anew; in another's, what it says is."""
    from psycopg import sql

    name, table, permissive, command, roles, using, check, comment, plain, owner, may = row
    what, whose = f"policy {name} on {table}", sql.SQL("{} ON {}").format(
        sql.Identifier(name), sql.SQL(table)
    )  # fmt: skip
    if not may:
        return Hung(what, refused=f"its table belongs to {owner}")
    says = [sql.SQL(" USING ({})").format(sql.SQL(using))] if using else []
    says += [sql.SQL(" WITH CHECK ({})").format(sql.SQL(check))] if check else []
    if not whole:
        return Hung(
            what, None, (), (sql.SQL("ALTER POLICY {}{}").format(whose, sql.Composed(says)),)
        )
    create = sql.SQL("CREATE POLICY {} AS {} FOR {} TO {}{}").format(
        whose,
        sql.SQL("PERMISSIVE" if permissive else "RESTRICTIVE"),
        sql.SQL(COMMANDS[command]),
        sql.SQL(", ").join(map(sql.SQL, roles)),
        sql.Composed(says),
    )
    anew = [create]
    if comment is not None:
        anew.append(sql.SQL("COMMENT ON POLICY {} IS {}").format(whose, sql.Literal(comment)))
    return Hung(what, plain, (sql.SQL("DROP POLICY {}").format(whose),), tuple(anew))


def _trigger(
    name: str, table: str, text: str, enabled: str, comment: str | None, plain: str,
    function: str, may: bool,
) -> Hung:  # fmt: skip
    from psycopg import sql

    what = f"trigger {name} on {table}"
    if not may:
        return Hung(what, refused=f"this role may not call {function}")
    trigger, whose = sql.Identifier(name), sql.SQL(table)
    anew = [sql.Composed([sql.SQL(text)])]
    if enabled in ENABLED:
        state = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
        anew.append(state.format(whose, sql.SQL(ENABLED[enabled]), trigger))
    if comment is not None:
        said = sql.SQL("COMMENT ON TRIGGER {} ON {} IS {}")
        anew.append(said.format(trigger, whose, sql.Literal(comment)))
    off = sql.SQL("DROP TRIGGER {} ON {}").format(trigger, whose)
    return Hung(what, plain, (off,), tuple(anew))


def _row_security(link: psycopg.Connection[Any], values: Any) -> Iterator[Hung]:
    from psycopg import sql

    for table, plain, enabled, forced in link.execute(ROW_SECURITY, values).fetchall():
        whose = sql.SQL(table)
        change = sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY, {} ROW LEVEL SECURITY")
        words = ("ENABLE" if enabled else "DISABLE", "FORCE" if forced else "NO FORCE")
        anew = change.format(whose, *map(sql.SQL, words))
        # Its owner has to be able to read what was replaced; others see no more of it than before.
        off = sql.SQL("ALTER TABLE {} NO FORCE ROW LEVEL SECURITY").format(whose)
        yield Hung(f"row level security of {table}", plain, (off,) if forced else (), (anew,))


def _published(link: psycopg.Connection[Any], values: Any) -> Iterator[Hung]:
    from psycopg import sql

    new = link.info.server_version >= 150_000
    query = PUBLISHED.format(
        columns=COLUMNS_PUBLISHED if new else "NULL",
        condition=CONDITION_PUBLISHED if new else "NULL",
    )
    for name, table, plain, owner, may, columns, condition in link.execute(
        query, values
    ).fetchall():
        what = f"publication {name} of {table}"
        if not may:
            yield Hung(what, refused=f"it belongs to {owner}")
            continue
        more: sql.Composable = sql.SQL("")
        if columns:
            more += sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, columns)))
        if condition:
            more += sql.SQL(" WHERE ({})").format(sql.SQL(condition))
        change = sql.SQL("ALTER PUBLICATION {} {} TABLE ONLY {}{}")
        off = change.format(sql.Identifier(name), sql.SQL("DROP"), sql.SQL(table), sql.SQL(""))
        anew = change.format(sql.Identifier(name), sql.SQL("ADD"), sql.SQL(table), more)
        yield Hung(what, plain, (off,), (anew,))


def _statistics(name: str, text: str, plain: str, owner: str, may: bool) -> Hung:
    from psycopg import sql

    if not may:
        return Hung(f"statistics {name}", refused=f"they belong to {owner}")
    off = sql.SQL("DROP STATISTICS {}").format(sql.SQL(name))
    return Hung(f"statistics {name}", plain, (off,), (sql.Composed([sql.SQL(text)]),))
