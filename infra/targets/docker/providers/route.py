"""The switch: the proxy sends clients to new servers only once they have proven themselves."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from infra.database import model_endpoints
from infra.embedded import reach
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.docker import agent_guard
from infra.targets.docker.engine.client import last_lines
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.names import PROXY_PORT, PROXY_TLS_PORT, PYTHON
from infra.targets.docker.postgres import administrator
from infra.targets.docker.proof import ask
from infra.targets.docker.proxy import running, switch
from infra.targets.docker.proxy_settings import (
    acme_settings,
    nginx_settings,
    servers_of,
    upstream,
)
from infra.targets.providers.provider import Properties, Provider

ACME_SETTINGS = "/data/acme/settings"
START_SECONDS = 60.0
ATTEMPTS = 4
REACH = Path(reach.__file__)

ACME = f"""\
set -eu; umask 077; mkdir -p /data/acme; cat > {ACME_SETTINGS}.new
cmp -s {ACME_SETTINGS}.new {ACME_SETTINGS} || mv {ACME_SETTINGS}.new {ACME_SETTINGS}
if [ -s {ACME_SETTINGS} ]; then letta-ops-acme placeholder; fi
"""


class Route(Provider):
    """Inputs: `proxy`, `proxy_id`, `alias`, `upstreams` and `upstream_ids` (the name that the servers
    share, the containers and their ids), `urls` (of the providers), where the database is, `tls`,
    `files` (digest of given certificates), `max_request`, `model`, `embedding`, `secrets` (values,
    for redaction).

    A server that clients weren't sent to before is proven first: healthy, password asked for, models
    within reach, agents counted in the database and one of them read, a message answered. What fails
    leaves the old one serving, and the providers' URLs in the database as they were.
    """

    compared: ClassVar[tuple[str, ...]] = (
        "proxy", "proxy_id", "alias", "upstreams", "upstream_ids", "urls", "tls", "files",
        "max_request",
    )  # fmt: skip

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        return self._switch(folder, {}, inputs)

    def change(self, folder: StackFolder, old: Properties, new: Properties) -> Properties:
        return self._switch(folder, old, new)[1]

    def _switch(
        self, folder: StackFolder, old: Properties, inputs: Properties
    ) -> tuple[str, Properties]:
        """`old`: of the last switch, {} for the first. What the proxy's volume says proves nothing."""
        serving = list(old.get("upstreams") or [])
        known = set(zip(serving, old.get("upstream_ids") or [], strict=False))
        wanted = zip(inputs["upstreams"], inputs["upstream_ids"], strict=True)
        new = [server for server, id_ in wanted if (server, id_) not in known]
        serving = [server for server in serving if server not in new and _answers(server)]
        for server in new:
            _ensure_models(server, serving)
        before = _move(inputs, inputs["urls"])
        try:
            for server in new:
                _ensure_no_agent_lost(folder, server, _prove(server, inputs, serving), serving)
            _apply(inputs)
        except BaseException:
            _move(inputs, before)
            raise
        _ensure_through(inputs)
        return inputs["proxy"], {}

    def remove(self, folder: StackFolder, outputs: Properties) -> None:
        """The proxy's own container goes with its resource; its settings stay in its volume."""

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        try:
            settings, serving = running(outputs["proxy"])
        except LettaOpsError:
            return None  # the proxy's own resource says so
        if settings != _settings(outputs):
            return "the proxy's settings differ"
        if serving.strip() != _upstream(outputs):
            return "the proxy sends clients elsewhere"
        try:
            with administrator(outputs) as link:
                return model_endpoints.elsewhere(link, outputs["urls"])
        except LettaOpsError:
            return None  # Postgres' own service says so


def _move(inputs: Mapping[str, Any], urls: Mapping[str, str]) -> dict[str, str]:
    with administrator(inputs) as link:
        return model_endpoints.move(link, urls)


def _settings(inputs: Mapping[str, Any]) -> str:
    return nginx_settings(inputs["tls"], int(inputs["max_request"]))


def _upstream(inputs: Mapping[str, Any]) -> str:
    return upstream(inputs["alias"], inputs["upstreams"])


def _prove(server: str, inputs: Mapping[str, Any], serving: Sequence[str]) -> int:
    """Return how many agents the server sees; raises LettaOpsError (`server-not-proven`).

    Where none serves, one whose model doesn't answer is better than none: it is told.
    """
    handles = [f"--{name}={inputs[name]}" for name in ("model", "embedding") if inputs.get(name)]
    outcome = ask(server, handles)
    if outcome.get("failed") == "message" and not serving:
        print(f"the model gave no answer: {outcome['reason']}", file=sys.stderr, flush=True)
    elif "failed" in outcome:
        raise _refused(server, inputs, f"the step '{outcome['failed']}': {outcome['reason']}")
    return int(outcome["agents"])


def _ensure_models(server: str, serving: Sequence[str]) -> None:
    """Letta asks its providers for models when it starts, and never again.

    A server that can't reach one would be worse than the one that serves now, unless that one can't
    either. Where none serves, one that lacks a provider is better than none: it is told, and `check`
    goes on telling it.
    """
    failed = _out_of_reach(server)
    if failed and serving:
        known = [(row["name"], row["url"]) for row in _out_of_reach(serving[0])]
        failed = [row for row in failed if (row["name"], row["url"]) not in known]
    if not failed:
        return
    what = "; ".join(
        f"{row['name']} at {row['url']} fails at {row['failed']}: {row['detail']}" for row in failed
    )
    if not serving:
        print(f"the server can't reach all of its models: {what}", file=sys.stderr, flush=True)
        return
    raise LettaOpsError(
        "model-unreachable",
        f"the new server can't reach its models: {what}",
        "correct the providers' settings and run the same command again; nothing was switched,"
        f" {', '.join(serving)} goes on serving",
    )


def _out_of_reach(server: str) -> list[dict[str, Any]]:
    """The providers that `server` can't reach: `name`, `url`, `failed` (the step) and `detail`."""
    answer = execute(server, [PYTHON, "-I", "-c", REACH.read_text()], "[]\n")
    try:
        rows = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise LettaOpsError(
            "model-probe-failed",
            f"the providers could not be asked from {server}: {answer.output.strip()[-400:]}",
            "run the same command again; nothing was switched",
        ) from None
    return [row for row in rows if row["failed"]]


def _ensure_no_agent_lost(
    folder: StackFolder, server: str, agents: int, serving: Sequence[str]
) -> None:
    """The new server must see what the serving one sees now; without one, what was counted before.

    Clients create and delete agents while we ask one and then the other: so a difference counts
    only when it stays.
    """
    for attempt in range(ATTEMPTS):
        others = [int(found["agents"]) for found in map(_answers, serving) if found]
        if not others:
            agent_guard.ensure_not_fewer(folder, agents)
            return
        if agents >= max(others):
            return
        time.sleep(attempt)
        agents = int(ask(server).get("agents", 0))
    raise agent_guard.missing(folder, agents, max(others), "on the server that serves now")


def _answers(server: str) -> dict[str, Any]:
    """What a server says of itself; {} when it doesn't run or doesn't answer."""
    try:
        outcome = ask(server)
    except LettaOpsError:
        return {}
    return {} if "failed" in outcome else outcome


def _ensure_through(inputs: Mapping[str, Any]) -> None:
    """Ask through the proxy until it answers, as a client would."""
    tls = inputs["tls"]["mode"] != "off"
    port = PROXY_TLS_PORT if tls else PROXY_PORT
    host = inputs["proxy"]
    through = f"http{'s' if tls else ''}://{host}:{port}"
    deadline = time.monotonic() + START_SECONDS
    while True:
        outcome = ask(inputs["upstreams"][0], [f"--through={through}"])
        if "failed" not in outcome:
            return
        if time.monotonic() > deadline:
            raise LettaOpsError(
                "proxy-not-serving",
                f"the proxy doesn't serve: {outcome['reason']}; the last lines of its log:\n"
                + last_lines(inputs["proxy"], _secrets(inputs)),
                "mend the cause (the tls settings above all), then run the same command again",
            )
        time.sleep(0.5)


def _apply(inputs: Mapping[str, Any]) -> None:
    answer = execute(inputs["proxy"], ["sh", "-c", ACME], acme_settings(inputs["tls"]))
    if answer.code != 0:
        raise LettaOpsError(
            "proxy-settings",
            f"a first certificate for {inputs['tls']['host']} could not be made: {answer.output}",
            "correct the tls settings, then run the same command again; nothing was switched",
        )
    switch(inputs["proxy"], _settings(inputs), _upstream(inputs))


def _refused(server: str, inputs: Mapping[str, Any], why: str) -> LettaOpsError:
    serving = servers_of(running(inputs["proxy"])[1])
    still = f"; {', '.join(serving)} goes on serving" if serving else ""
    return LettaOpsError(
        "server-not-proven",
        f"the new server {server} failed {why}{still}. The last lines of its log:\n"
        + last_lines(server, _secrets(inputs)),
        "mend the configuration and run the same command again; nothing was switched",
    )


def _secrets(inputs: Mapping[str, Any]) -> list[Sensitive]:
    return [Sensitive(value) for value in inputs.get("secrets") or []]
