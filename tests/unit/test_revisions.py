"""Reading the scripts of a release's migrations: their order, and what each does."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.revisions import Revisions
from infra.errors import LettaOpsError

HEAD = '''"""{title}

Revision ID: {id}
"""
from alembic import op
import sqlalchemy as sa
revision: str = "{id}"
down_revision = {down}


def upgrade() -> None:
    {body}


def downgrade() -> None:
    op.drop_table("agents")
'''


def write(folder: Path, identifier: str, down: object, body: str = "pass", title: str = "") -> None:
    versions = folder / "alembic" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    script = HEAD.format(id=identifier, down=repr(down), body=body, title=title or identifier)
    (versions / f"{identifier}_x.py").write_text(script)


def test_pending_ones_come_in_their_order_also_where_two_lines_meet(tmp_path: Path) -> None:
    for identifier, down in (
        ("d", ("b", "c")), ("a", None), ("c", "a"), ("b", "a"), ("e", "d"),
    ):  # fmt: skip
        write(tmp_path, identifier, down)
    known = Revisions.read("1.0", tmp_path)
    assert known.heads == ("e",)
    order = [each.id for each in known.pending(None)]
    assert order[0] == "a"
    assert order[-2:] == ["d", "e"]
    assert [each.id for each in known.pending("d")] == ["e"]
    assert {each.id for each in known.pending("b")} == {"c", "d", "e"}
    assert known.pending("e") == []


def test_a_revision_of_another_release_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", None)
    with pytest.raises(LettaOpsError) as raised:
        Revisions.read("1.0", tmp_path).pending("ffff")
    assert raised.value.code == "revision-unknown"


def test_a_script_that_is_damaged_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a", None, "this is no Python")
    with pytest.raises(LettaOpsError, match=r"a_x\.py") as raised:
        Revisions.read("1.0", tmp_path)
    assert raised.value.code == "release-damaged"


@pytest.mark.parametrize(
    ("body", "kinds", "words"),
    [
        ('op.add_column("agents", sa.Column("hidden", sa.Boolean()))', "adds", "agents.hidden"),
        ('op.create_table("new", sa.Column("id", sa.String()))', "adds", "create_table new"),
        ('op.drop_column("agents", "memory")', "drops", "agents.memory"),
        ('op.drop_table("legacy")', "drops", "drop_table legacy"),
        ('op.alter_column("t", "c", type_=sa.Text())', "rewrites", "t.c"),
        ('op.alter_column("t", "c", nullable=True)', "changes", "t.c"),
        ('op.create_index(op.f("ix"), "t", ["c"])', "adds", "t: ix"),
        ('op.drop_index("ix", table_name="t")', "changes", "t: ix"),
        ('op.execute("UPDATE agents SET x = 1")', "data", "update agents"),
        ('op.execute(sa.text("""\n  DELETE FROM messages"""))', "data", "delete from messages"),
        ('op.get_bind().execute(jobs.update().where(True).values(a=1))', "data", "UPDATE jobs"),
        ('op.execute("DROP TABLE x")', "drops", "drop table x"),
        ("pass", "", ""),
    ],
)  # fmt: skip
def test_what_a_script_does_is_read(tmp_path: Path, body: str, kinds: str, words: str) -> None:
    """And never what its way down does."""
    write(tmp_path, "a", None, body, "A title")
    (revision,) = Revisions.read("1.0", tmp_path).pending(None)
    assert revision.title == "A title"
    assert " ".join(revision.kinds) == kinds
    assert words in "; ".join(map(str, revision.operations))


def test_operations_in_a_batch_know_their_table(tmp_path: Path) -> None:
    body = 'with op.batch_alter_table("jobs") as batch:\n        batch.drop_column("old")'
    write(tmp_path, "a", None, body)
    (revision,) = Revisions.read("1.0", tmp_path).pending(None)
    assert [str(each) for each in revision.operations] == ["drop_column jobs.old"]
