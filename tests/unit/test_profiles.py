"""The profile: read with references and overrides, written whole, judged with key paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigurationError, LettaOpsError
from infra.stack.deployment import store_settings
from infra.stack.keys import keys_of
from infra.stack.locations import StackFolder, stack_folder
from infra.stack.profile import load, parse, remember, remembered, variable
from infra.stack.profile_keys import Profile
from infra.targets import is_known

FULL = {
    "version": 1,
    "id": "an-id",
    "target": "local",
    "release": "0.16.8",
    "server.url": "http://127.0.0.1:8283/",
    "server.password": "the-server-password",
    "server.encryption_key": "the-encryption-key",
    "database.host": "127.0.0.1",
    "database.port": 8285,
    "database.owner_password": "the-owner-password",
    "database.reader_password": "the-reader-password",
}


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    return StackFolder(tmp_path, "local")


def test_what_is_remembered_is_loaded_again(folder: StackFolder) -> None:
    remember(folder.profile, FULL)
    deployment = load(folder, environment={})
    assert deployment.server.url == "http://127.0.0.1:8283"
    assert deployment.server.port == 8283
    assert deployment.database is not None
    assert deployment.database.reader.name == "letta_reader"
    assert deployment.folder == folder
    assert len(deployment.secrets) == 4


@pytest.mark.parametrize(
    ("key", "value"), [("server.password", 1e3), ("server.encryption_key", 0x10), ("id", True)]
)
def test_a_text_without_quotes_is_refused_since_toml_has_altered_it(
    key: str, value: object, folder: StackFolder
) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}: must be a text, not a"):
        parse({**FULL, key: value}, "test", folder)


def test_a_file_url_is_followed_but_where_it_names_a_store(
    folder: StackFolder, tmp_path: Path
) -> None:
    (tmp_path / "host").write_text("db.example\n")
    url = (tmp_path / "host").as_uri()
    made = parse({**FULL, "database.host": url, "store.url": url}, "test", folder)
    assert made.database is not None
    assert made.database.host == "db.example"
    assert made.backups.store.url == url


def test_a_key_without_its_last_name_is_told(folder: StackFolder) -> None:
    with pytest.raises(ConfigurationError, match=r"placement\.: is not complete"):
        parse({**FULL, "placement.": "x", "placement.a": "y"}, "test", folder)


def test_no_secret_is_shown_by_repr(folder: StackFolder) -> None:
    shown = repr(parse(FULL, "test", folder))
    for name, value in FULL.items():
        if "password" in name or "key" in name:
            assert str(value) not in shown


def test_remembering_keeps_the_rest_and_none_removes(folder: StackFolder) -> None:
    remember(folder.profile, {"server.url": "http://a", "model.handle": "x/y"})
    remember(folder.profile, {"server.url": "http://b", "model.handle": None})
    assert remembered(folder.profile, "server.url") == "http://b"
    assert remembered(folder.profile, "model.handle") is None


def test_the_profile_is_private_and_no_draft_of_it_is_left(folder: StackFolder) -> None:
    remember(folder.profile, FULL)
    assert folder.profile.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.root.iterdir()] == ["profile.toml"]


def test_every_key_has_a_variable_that_overrides_it(folder: StackFolder) -> None:
    remember(folder.profile, FULL)
    environment = {"LETTA_OPS_SERVER_URL": "https://other", "LETTA_OPS_DATABASE_PORT": "6543"}
    deployment = load(folder, environment=environment)
    assert deployment.server.url == "https://other"
    assert deployment.database is not None
    assert deployment.database.port == 6543
    names = keys_of(Profile)
    assert len({variable(name) for name in names}) == len(names)


def test_the_environment_alone_makes_a_deployment(folder: StackFolder) -> None:
    deployment = load(folder, environment={"LETTA_OPS_SERVER_URL": "https://ci.example.com"})
    assert deployment.target == "external"
    assert deployment.database is None
    assert deployment.folder is None
    assert deployment.server.port == 443


def test_a_reference_is_followed(folder: StackFolder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from-a-file\n")
    values = {
        "server.url": "http://a",
        "server.password": f"file:{tmp_path}/secret",
        "server.encryption_key": "cmd:printf from-a-command",
    }
    server = parse(values, "test", folder).server
    assert server.password is not None
    assert server.encryption_key is not None
    assert server.password.reveal() == "from-a-file"
    assert server.encryption_key.reveal() == "from-a-command"


def test_one_role_is_enough_for_a_database_of_the_users_own(folder: StackFolder) -> None:
    values = {"server.url": "http://a", "database.host": "db", "database.owner": "me"}
    database = parse(values, "test", folder).database
    assert database is not None
    assert database.reader == database.owner


PROBLEMS = [
    ({}, "server.url: is missing"),
    ({"server.url": "localhost:1"}, "server.url: must begin with http:// or https://"),
    ({"server.url": "http://a", "colour": "red"}, "colour: unknown key"),
    ({"server.url": "http://a", "target": "moon"}, "target: 'moon' is unknown"),
    ({"server.url": "http://a", "version": 2}, "version: is 2, this letta-ops knows 1"),
    ({"server.url": "http://a", "server.password": ""}, "server.password: must be a text"),
    ({"server.url": "http://a", "server.password": "env:"}, "server.password: the environment"),
    ({"server.url": "http://a", "database.port": 5432}, "database.host: is missing"),
    (
        {"server.url": "http://a", "database.host": "h", "database.port": "x"},
        "must be between 1 and 65535, not 'x'",
    ),
    ({"server.url": "http://a", "database.host": "h", "database.port": 0}, "between 1 and 65535"),
    ({"server.url": "http://a", "server.password": "file:/no/such"}, "/no/such cannot be read"),
    ({"server.url": "http://a", "server.password": "cmd:false"}, "exit code 1"),
    ({"server.url": "http://a", "store.url": "/srv"}, "store.url: must begin with file://"),
    ({"server.url": "http://a", "backup.recipients": ["age1"]}, "recipients: must be a text"),
]


@pytest.mark.parametrize(("values", "problem"), PROBLEMS, ids=[text for _, text in PROBLEMS])
def test_a_problem_is_named_with_its_key(
    folder: StackFolder, values: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as failure:
        parse(values, "test", folder, is_target=is_known)
    assert problem in failure.value.message


def test_settings_of_backups_are_texts_and_their_secrets_are_not_followed(
    folder: StackFolder, tmp_path: Path
) -> None:
    folder.root.mkdir()
    folder.profile.write_text(
        'retention = "last=2"\n[server]\nurl = "http://a"\n'
        '[store]\nurl = "cmd:printf s3://b"\npath_style = true\ntimeout = 5\n'
        '[backup]\nidentity = "file:/offline"\nescrow = false\n'
    )
    deployment = load(folder, environment={"LETTA_OPS_RETENTION": "last=3"})
    backups = deployment.backups
    assert backups.retention.last == 3
    assert backups.backup.escrow is False
    assert backups.store_settings("").url == "s3://b"
    assert (backups.store_settings("").path_style, backups.store_settings("").timeout) == (
        True,
        5.0,
    )
    with pytest.raises(ValueError, match="/offline cannot be read"):
        _ = backups.identity


def test_the_default_store_is_beside_the_stacks(folder: StackFolder, tmp_path: Path) -> None:
    values = {"server.url": "http://a", "target": "local"}
    assert store_settings(parse(values, "test", folder)).url == f"file://{tmp_path}/backups"
    with pytest.raises(LettaOpsError):
        stack_folder("backups", tmp_path)


def test_a_credential_that_leads_nowhere_is_named_when_the_store_is_opened(
    folder: StackFolder,
) -> None:
    keys = {"store.access_key_id": "file:/nowhere", "store.secret_access_key": "a-plain-secret"}
    deployment = parse({"server.url": "http://a", **keys}, "test", folder)
    with pytest.raises(ConfigurationError, match="/nowhere cannot be read") as failure:
        store_settings(deployment)
    assert "a-plain-secret" not in str(failure.value)
    assert [secret.reveal() for secret in deployment.secrets] == ["a-plain-secret"]


def test_a_missing_profile_says_how_to_get_one(folder: StackFolder) -> None:
    with pytest.raises(LettaOpsError, match="no profile for stack 'local'") as failure:
        load(folder, environment={})
    assert "letta-ops up" in failure.value.hint


def test_a_file_named_by_hand_must_be_there(folder: StackFolder, tmp_path: Path) -> None:
    with pytest.raises(LettaOpsError):
        load(folder, tmp_path / "none.toml", {"LETTA_OPS_SERVER_URL": "http://a"})


def test_half_a_file_is_an_error_and_not_a_default(folder: StackFolder) -> None:
    folder.root.mkdir()
    folder.profile.write_text('[server]\nurl = "http://a')
    with pytest.raises(LettaOpsError) as failure:
        load(folder, environment={})
    assert failure.value.code == "profile-unreadable"


@pytest.mark.parametrize(("mode", "refused"), [(0o644, True), (0o640, True), (0o600, False)])
def test_secrets_that_others_can_read_are_refused(
    folder: StackFolder, mode: int, refused: bool
) -> None:
    remember(folder.profile, FULL)
    folder.profile.chmod(mode)
    if refused:
        with pytest.raises(LettaOpsError, match="can be read by others"):
            load(folder, environment={})
    else:
        load(folder, environment={})


def test_a_profile_with_references_only_may_be_read_by_all(folder: StackFolder) -> None:
    folder.root.mkdir()
    folder.profile.write_text('[server]\nurl = "http://a"\npassword = "cmd:printf hidden"\n')
    folder.profile.chmod(0o644)
    assert load(folder, environment={}).server.password is not None
