"""`up` does what it must and no more; `destroy` leaves the data."""

from __future__ import annotations

from pathlib import Path

from tests.live.machine import PULUMI, Stack, free_ports


def test_a_second_up_changes_nothing_and_says_so(stack: Stack) -> None:
    before = {service: stack.pid(service) for service in ("letta", "postgres", "model")}
    answer = stack.run("up", "--no-smoke")
    assert answer.code == 0, answer.err
    assert "nothing to change" in answer.out + answer.err
    assert {service: stack.pid(service) for service in before} == before


def test_a_preview_after_up_shows_no_difference(stack: Stack) -> None:
    changes = stack.json("preview")["changes"]
    assert set(changes) == {"same"}


def test_a_preview_keeps_no_setting(stack: Stack) -> None:
    (port,) = free_ports(1)
    shown = stack.json("preview", "--config", f"server.port={port}")
    assert {change["name"] for change in shown["resources"]} == {"letta", "profile"}
    assert set(stack.json("preview")["changes"]) == {"same"}


def test_a_literal_pulumi_up_sees_the_same_stack(stack: Stack) -> None:
    """The checkout's own program and the wrapper in .venv: no change, as after `letta-ops up`."""
    settings = stack.folder.project / f"Pulumi.{stack.name}.yaml"
    answer = stack.machine.run(
        PULUMI, "up", "--stack", stack.name, "--yes", "--non-interactive", "--config-file", settings
    )
    assert answer.code == 0, answer.out + answer.err
    assert "unchanged" in answer.out
    assert "created" not in answer.out
    assert "updated" not in answer.out


def test_a_stopped_service_is_a_difference_and_up_starts_it(own_stack: Stack) -> None:
    from infra.embedded import supervisor

    with supervisor.rpc(own_stack.folder) as keeper:
        keeper.stopProcess("model")
    changed = {change["name"] for change in own_stack.json("preview")["resources"]}
    assert changed == {"model"}
    own_stack.json("up", "--no-smoke")
    assert supervisor.states(own_stack.folder)["model"].running


def test_another_server_port_restarts_the_server_only(own_stack: Stack) -> None:
    (port,) = free_ports(1)
    before = {service: own_stack.pid(service) for service in ("letta", "postgres", "model")}
    changed = own_stack.json("up", "--no-smoke", "--config", f"server.port={port}")["changes"]
    assert {action for action in changed if changed[action]} == {"update", "same"}
    assert changed["update"] == 2  # the server and the profile
    assert own_stack.pid("letta") != before["letta"]
    assert own_stack.pid("postgres") == before["postgres"]
    assert own_stack.pid("model") == before["model"]
    assert own_stack.json("status")["server"]["healthy"] is True
    assert own_stack.deployment.server.port == port


def test_another_model_port_reaches_agents_that_were_made_before(own_stack: Stack) -> None:
    """Letta keeps the URL it saw first, in its database and in each agent."""
    from infra.connect import api

    def answers() -> bool:
        with api(own_stack.deployment) as client:
            said = client.agents.messages.create(
                agent.id, messages=[{"role": "user", "content": "Are you there?"}]
            )
            return "Are you there?" in str(said.messages)

    with api(own_stack.deployment) as client:
        agent = client.agents.create(
            name="old-timer",
            model=own_stack.deployment.model.handle,
            embedding=own_stack.deployment.model.embedding,
        )
    assert answers()
    (port,) = free_ports(1)
    own_stack.json("up", "--config", f"model_port={port}")
    assert answers()
    with api(own_stack.deployment) as client:
        client.agents.delete(agent.id)


def test_another_password_restarts_the_server_only(own_stack: Stack) -> None:
    """The profile is where a person changes a password; `up` brings it to the server."""
    from infra.profiles import remember

    before = own_stack.pid("postgres")
    remember(own_stack.folder.profile, {"server.password": "a-password-chosen-by-hand"})
    assert own_stack.json("check", code=2)["findings"][0]["state"] == "CRITICAL"
    own_stack.json("up", "--no-smoke")
    assert own_stack.pid("postgres") == before
    shown = own_stack.run("secret", "show", "server-password")
    assert shown.out.strip() == "a-password-chosen-by-hand"
    assert own_stack.json("agent", "list") == []


def test_a_new_database_password_reaches_database_and_server(own_stack: Stack) -> None:
    from infra.profiles import remember

    remember(own_stack.folder.profile, {"database.owner_password": "another-owner-password"})
    own_stack.json("up")  # with the smoke test: the server works on the database
    assert own_stack.json("status")["database"]["name"] == "letta"


def test_a_provider_is_added_and_the_stacks_model_leaves(own_stack: Stack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-test-provider-key-0123456789\n")
    before = own_stack.pid("postgres")
    (url_port,) = free_ports(1)
    words = ["--config", f"providers.openai.api_key=file:{key}",
             "--config", f"providers.openai.base_url=http://127.0.0.1:{url_port}/v1"]  # fmt: skip
    changed = own_stack.json("up", "--no-smoke", *words)
    assert changed["changes"]["delete"] >= 1
    assert own_stack.pid("postgres") == before
    assert own_stack.deployment.model.handle is None
    back = ["--config", "providers.openai.api_key=", "--config", "providers.openai.base_url="]
    own_stack.json("up", *back)
    assert own_stack.deployment.model.handle is not None


def test_destroy_leaves_the_data_and_the_next_up_finds_the_same_agents(own_stack: Stack) -> None:
    from infra.connect import api

    with api(own_stack.deployment) as client:
        agent = client.agents.create(
            name="kept",
            model=own_stack.deployment.model.handle,
            embedding=own_stack.deployment.model.embedding,
        )
    key = own_stack.run("secret", "show", "encryption-key").out
    own_stack.destroy()
    assert own_stack.processes() == []
    assert (own_stack.folder.postgres_data / "PG_VERSION").exists()
    own_stack.json("up", "--no-smoke")
    assert [each["id"] for each in own_stack.json("agent", "list")] == [agent.id]
    assert own_stack.run("secret", "show", "encryption-key").out == key
