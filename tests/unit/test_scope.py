"""What is Letta's in a database of others: known by name, and kept in a manifest of its own format."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backups.manifest import LETTA, WHOLE, Table, parse_manifest
from backups.restoring.journal import Journal
from backups.scope import Names, scope_of
from backups.side_schema import SideSchemas, homes_of
from backups.table_of_contents import chosen_entries, own_entries
from infra.errors import LettaOpsError
from infra.stack.backup_settings import BackupSection, BackupSettings
from infra.stack.deployment import EXTERNAL, Database, Deployment, Model, Role, Server
from infra.stack.releases import RELEASES
from tests.unit.backups import manifest

HEAD = RELEASES["0.16.8"].alembic_head
LISTING = """;
215; 1259 16385 TABLE public agents letta
216; 1259 16386 TABLE public app_agents letta
217; 1259 16387 SEQUENCE public message_seq_id letta
218; 1259 16388 TABLE letta_ops audit letta
900; 1247 16390 TYPE public sandboxtype letta
901; 1247 16391 TYPE public app_mood letta
3400; 0 16385 TABLE DATA public agents letta
3401; 0 16386 TABLE DATA public app_agents letta
3402; 0 16385 TABLE DATA public agents_of_others letta
3403; 0 0 SEQUENCE SET public message_seq_id letta
3500; 2606 1 CONSTRAINT public agents agents_pkey letta
3501; 1259 2 INDEX public of_somebody letta
3502; 2606 3 FK CONSTRAINT public app_agents fk letta
3503; 2620 4 TRIGGER public agents app_touch letta
3504; 0 0 COMMENT public TRIGGER app_touch ON agents letta
3505; 3256 5 POLICY public agents app_own letta
3506; 0 16385 COMMENT public COLUMN agents.name letta
3507; 0 16385 COMMENT public TABLE agents letta
3508; 2618 6 RULE public agents app_rule letta
3509; 0 16385 ROW SECURITY public agents letta
3510; 0 16386 ROW SECURITY public app_agents letta""".splitlines()


def of_letta() -> object:
    made = manifest()
    database = replace(
        made.database, scope=LETTA, types={"sandboxtype": ("E2B", "LOCAL")}, leaning={"2620 4": "x"}
    )
    return replace(made, database=database)


def test_a_manifest_of_either_scope_is_read_as_it_was_written() -> None:
    whole = manifest()
    record = replace(whole.database, large_objects=Table(2, "0" * 32), views={"public.counted": 1})
    later = replace(whole, database=record)
    for made, number in ((whole, 2), (of_letta(), 3), (later, 4)):
        text = made.as_text()  # type: ignore[attr-defined]
        assert json.loads(text)["format"] == number
        assert ("scope" in json.loads(text)["database"]) is (number > 2)
        assert ("views" in json.loads(text)["database"]) is (number > 3)
        assert parse_manifest(text.encode(), "there") == made


def test_a_schema_that_nobody_knows_is_refused() -> None:
    assert Names.of(HEAD).relations == RELEASES["0.16.8"].tables
    with pytest.raises(LettaOpsError) as caught:
        Names.of("0123456789ab")
    assert caught.value.code == "release-unknown"
    # A backup in that scope says itself what it holds.
    record = replace(of_letta().database, revision="0123456789ab")  # type: ignore[attr-defined]
    assert Names.of(record.revision, record).relations == {
        "agents", "messages", "block", "message_seq",
    }  # fmt: skip


def test_only_what_is_lettas_is_chosen_of_a_dump() -> None:
    names = Names(("agents", "message_seq_id"), ("sandboxtype",))
    homes = homes_of("public", names, SideSchemas("side", "records", None))
    chosen = [
        entry.text.removesuffix(" letta")
        for entry in own_entries(LISTING, homes, with_security=True)
    ]
    assert chosen == [
        "TABLE public agents", "SEQUENCE public message_seq_id", "TABLE letta_ops audit",
        "TYPE public sandboxtype", "TABLE DATA public agents", "SEQUENCE SET public message_seq_id",
        "CONSTRAINT public agents agents_pkey", "INDEX public of_somebody",
        "COMMENT public COLUMN agents.name", "COMMENT public TABLE agents", "ROW SECURITY public agents",
    ]  # fmt: skip


def test_what_needs_others_is_left_out_with_its_comment_and_told() -> None:
    record = of_letta().database  # type: ignore[attr-defined]
    chosen, told = chosen_entries(LISTING, record, (), trusted=True)
    texts = [entry.text for entry in chosen]
    assert not [text for text in texts if "app_touch" in text]
    assert [text for text in texts if "POLICY" in text]
    assert len(told) == 1
    assert "app_touch" in told[0]


def test_generations_are_called_by_their_scope() -> None:
    whole = Journal("id", "b", "mine", 1, had_database=True, had_memory=False, old_keys=None)
    assert (whole.side, whole.previous) == ("mine_restoring", "mine_previous")
    inside = replace(whole, name="public", scope=LETTA)
    assert (inside.side, inside.undone) == ("letta_restoring", "letta_undone")


@pytest.mark.parametrize(
    ("chosen", "expected"), [(None, LETTA), ("database", WHOLE), ("letta", LETTA)]
)
def test_a_database_that_was_there_is_taken_for_one_of_others(
    chosen: str | None, expected: str
) -> None:
    deployment = Deployment(
        stack="prod",
        id="an-id",
        target=EXTERNAL,
        release=None,
        server=Server("http://127.0.0.1:1", None, None),
        database=Database("127.0.0.1", 1, "letta", Role("letta", None), Role("letta", None)),
        model=Model("a/b", "c/d"),
        backups=BackupSettings(backup=BackupSection.model_construct(scope=chosen)),
    )
    assert scope_of(deployment) == expected
