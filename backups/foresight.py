"""What can be seen of a database, while it is backed up, by which its restore will fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

# Functions that run while data is loaded, as defaults, constraints and indexes do: pg_restore does that
# with an empty search path, unless they bring one.
RUN_BY_A_LOAD = """
SELECT DISTINCT p.oid::regprocedure::text, p.prosrc, pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_language l ON l.oid = p.prolang
WHERE d.refclassid = 'pg_proc'::regclass
AND d.classid = ANY (ARRAY['pg_attrdef', 'pg_constraint', 'pg_class']::regclass[])
AND l.lanname NOT IN ('c', 'internal') AND p.prosqlbody IS NULL
AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search_path=%')
AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid
  AND e.deptype = 'e')
ORDER BY 1, 3
"""
NAMES = """
SELECT relname, '' FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
UNION SELECT proname, '(' FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
"""


def foreseen(link: psycopg.Connection[Any]) -> Iterator[str]:
    """Yield in words what a restore may fail by. Raises psycopg.Error."""
    functions = link.execute(RUN_BY_A_LOAD).fetchall()
    names = link.execute(NAMES).fetchall() if functions else []
    for function, source, user in functions:
        bare = sorted(name for name, behind in names if _says(source, name, behind))
        if bare:
            yield (
                f"{user} runs {function}, which names {', '.join(bare)} without a schema: a restore runs"
                f" it without a search path, and may fail; give it one: ALTER FUNCTION {function} SET"
                " search_path = ..."
            )


def _says(source: str, name: str, behind: str) -> bool:
    """Whether the source has the name as a word of its own; of a function's, with its parenthesis."""
    pattern = rf'(?<![\w.$"]){re.escape(name)}(?![\w$])\s*{re.escape(behind)}'
    return re.search(pattern, source, re.IGNORECASE) is not None
