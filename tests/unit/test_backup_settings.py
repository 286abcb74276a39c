"""Settings of backups: what they mean, what is wrong with them, and when their secrets are read."""

from __future__ import annotations

from typing import Any

import pytest

from infra.errors import ConfigurationError
from infra.sensitive import Sensitive
from infra.stack.backup_settings import BackupSection, BackupSettings, Retention, parse_retention
from infra.stack.keys import Reading, as_text, is_secret, keys_of, read
from infra.targets import settings

FOLDER = "file:///srv/backups"


def in_profile(**values: Any) -> BackupSettings:
    return read(BackupSettings, values, Reading(is_profile=True))


def problems(values: dict[str, Any], encrypted: frozenset[str] = frozenset()) -> list[str]:
    """Those of a stack's configuration."""
    try:
        settings("local", values, encrypted, environment={})
    except ConfigurationError as error:
        return list(error.problems)
    return []


def test_nothing_configured_means_the_default_store_in_the_clear_without_a_schedule() -> None:
    chosen = BackupSettings()
    store = chosen.store_settings(FOLDER)
    assert (store.url, store.timeout, store.path_style) == (FOLDER, 60.0, False)
    assert not chosen.encrypted
    assert chosen.backup.escrow
    assert chosen.backup.schedule is chosen.drill.schedule is None
    assert chosen.retention == Retention(last=7, daily=14, weekly=8, monthly=12)


def test_an_endpoint_of_ones_own_takes_the_bucket_in_the_path_unless_told_otherwise() -> None:
    endpoint = {"store.url": "s3://b/p", "store.endpoint": "https://s3.example.com"}
    assert in_profile(**endpoint).store_settings(FOLDER).path_style is True
    virtual = in_profile(**endpoint, **{"store.path_style": "false"})
    assert virtual.store_settings(FOLDER).path_style is False


def test_a_secret_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = in_profile(**{"backup.identity": "env:OFFLINE_IDENTITY"})
    monkeypatch.delenv("OFFLINE_IDENTITY", raising=False)
    with pytest.raises(ValueError, match=r"backup\.identity: the environment variable"):
        _ = chosen.identity
    monkeypatch.setenv("OFFLINE_IDENTITY", "AGE-SECRET-KEY-1")
    assert chosen.identity == Sensitive("AGE-SECRET-KEY-1")


def test_recipients_may_stand_with_commas_and_spaces() -> None:
    chosen = in_profile(**{"backup.recipients": "age1a, age1b age1c"})
    assert chosen.backup.recipients == ("age1a", "age1b", "age1c")
    assert chosen.encrypted


def test_only_a_secret_that_is_given_as_it_is_can_be_redacted() -> None:
    given = BackupSection(passphrase=Sensitive("correct horse"), identity=Sensitive("file:/key"))
    assert BackupSettings(backup=given).plain_secrets == (Sensitive("correct horse"),)


RETENTIONS = [
    ("last=3", Retention(last=3)),
    ("keep-last=3, keep-daily=2", Retention(last=3, daily=2)),
    ("hourly=1 yearly=4 within=2d", Retention(hourly=1, yearly=4, within=48)),
    ("within=3w", Retention(within=504)),
]


@pytest.mark.parametrize(("text", "expected"), RETENTIONS)
def test_retention_is_read_and_written_alike(text: str, expected: Retention) -> None:
    assert parse_retention(text) == expected
    assert parse_retention(str(expected)) == expected


PROBLEMS: list[tuple[dict[str, str], str]] = [
    ({"store.url": "/srv/backups"}, "store.url: must begin with file:// or s3://"),
    ({"store.url": "file://srv"}, "store.url: must be file:///an/absolute/folder"),
    ({"store.url": "file:///"}, "store.url: must be file:///an/absolute/folder"),
    ({"store.url": "s3:///prefix"}, "store.url: must be s3://bucket"),
    ({"store.url": "s3://id:hidden@b"}, "store.url: must have no user, password"),
    ({"store.endpoint": "s3.example.com"}, "store.endpoint: must begin with http"),
    ({"store.access_key_id": "env:A"}, "give both or none"),
    ({"store.session_token": "env:A"}, "goes with store.access_key_id"),
    ({"store.timeout": "soon"}, "store.timeout: must be seconds"),
    ({"store.timeout": "0"}, "store.timeout: must be seconds"),
    ({"store.path_style": "perhaps"}, "store.path_style: must be true or false"),
    ({"backup.escrow": "no"}, "backup.escrow: must be true or false"),
    ({"backup.encryption": "some"}, "backup.encryption: can only be none"),
    ({"backup.recipients": "ssh-ed25519"}, "'ssh-ed25519' is no age recipient"),
    ({"backup.recipients": "AGE-SECRET-KEY-1hidden"}, "backup.recipients: is an identity"),
    ({"backup.recipients": "age1a", "backup.passphrase": "env:P"}, "keep one of them"),
    ({"backup.schedule": "daily"}, "backup.schedule: 'daily' is no schedule in cron syntax"),
    ({"backup.schedule": "0 30 2 * * *"}, "it has five fields"),
    (
        {"backup.schedule": "0 2 * * *", "backup.passphrase": "env:P"},
        "backup.passphrase: is in a variable of your shell",
    ),
    (
        {"drill.schedule": "0 2 * * *", "backup.identity": "env:P"},
        "backup.identity: is in a variable of your shell",
    ),
    ({"drill.schedule": "61 * * * *"}, "drill.schedule: '61 * * * *' is no schedule"),
    ({"retention": "daily"}, "retention: 'daily' is not understood"),
    ({"retention": "last=7 daily=2 last=1"}, "retention: says last twice"),
    ({"store.url": "file:///a%00b"}, "store.url: must be file:///an/absolute/folder"),
    ({"store.url": "file:///%20"}, "store.url: must be file:///an/absolute/folder"),
    ({"retention": "last=0"}, "retention: would keep nothing"),
    ({"backup.passphrase": "hidden words"}, "backup.passphrase: is in plain text"),
]


@pytest.mark.parametrize(("values", "problem"), PROBLEMS, ids=[text for _, text in PROBLEMS])
def test_a_problem_is_named_and_no_secret_with_it(values: dict[str, str], problem: str) -> None:
    found = problems(values)
    assert len(found) == 1, found
    assert problem in found[0]
    assert "hidden" not in found[0]


def test_a_secret_may_stand_in_the_profile_and_encrypted_in_the_configuration() -> None:
    values = {"backup.passphrase": "hidden words"}
    assert in_profile(**values).passphrase == Sensitive("hidden words")
    assert not problems(values, frozenset(values))


def test_an_identity_may_be_in_a_shell_of_ones_own_where_only_backups_are_scheduled() -> None:
    values = {"backup.schedule": "0 2 * * *", "backup.identity": "env:IDENTITY"}
    assert not problems(values)


def test_its_secrets_are_these() -> None:
    secret = {name for name, about in keys_of(BackupSettings).items() if is_secret(about)}
    assert secret == {
        "store.access_key_id",
        "store.secret_access_key",
        "store.session_token",
        "backup.passphrase",
        "backup.identity",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [(False, "false"), (30, "30"), (2.5, "2.5"), ("In the Safe", "In the Safe")],
)
def test_what_yaml_and_toml_know_becomes_text(value: Any, expected: str) -> None:
    assert as_text(value) == expected


def test_a_list_is_no_text() -> None:
    with pytest.raises(ValueError, match="must be a text"):
        as_text(["age1a"])
