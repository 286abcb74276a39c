"""The switch: the proxy sends clients to new servers only once they have proven themselves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from infra import agent_guard
from infra.containers.engine import last_lines
from infra.containers.execute import execute
from infra.containers.migration import PYTHON
from infra.containers.names import PROXY_PORT, PROXY_TLS_PORT
from infra.containers.proxy_settings import ADMIN, caddy_settings, upstreams_of
from infra.errors import LettaOpsError
from infra.files import write_file
from infra.locations import StackFolder
from infra.providers.provider import Properties, Provider
from infra.sensitive import Sensitive

SETTINGS = "/data/proxy/caddy.json"
AUTHORITY = "/data/certificates/pki/authorities/local/root.crt"
START_SECONDS = 60.0
PROOF = Path(__file__).with_name("prove.py")

# Caddy checks the new file first; what it refuses doesn't replace what it runs.
SWITCH = f"""\
set -eu; umask 077; mkdir -p /data/proxy; cat > {SETTINGS}.new
caddy validate --config {SETTINGS}.new >/tmp/validate 2>&1 || {{ tail -n 5 /tmp/validate; exit 3; }}
if [ -S /run/caddy/admin.sock ]; then
    caddy reload --force --config {SETTINGS}.new --address {ADMIN} >/tmp/reload 2>&1 \\
        || {{ tail -n 5 /tmp/reload; exit 4; }}
fi
mv {SETTINGS}.new {SETTINGS}
"""


class Route(Provider):
    """Inputs: `proxy`, `proxy_id`, `upstreams` (container names), `tls`, `files` (digest of given
    certificates), `max_request`, `model`, `embedding`, `secrets` (values, for redaction).

    A server that isn't in the running configuration yet is proven first: healthy, password asked
    for, agents counted in the database, a message answered. What fails leaves the old one serving.
    """

    compared: ClassVar[tuple[str, ...]] = (
        "proxy", "proxy_id", "upstreams", "tls", "files", "max_request",
    )  # fmt: skip

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        serving = upstreams_of(_current(inputs["proxy"]))
        for server in inputs["upstreams"]:
            if server not in serving:
                agents = _prove(server, inputs)
                agent_guard.ensure_not_fewer(folder, agents)
        _switch(inputs)
        _ensure_through(inputs)
        if inputs["tls"]["mode"] == "internal":
            authority = execute(inputs["proxy"], ["cat", AUTHORITY])
            write_file(folder.authority, authority.output, 0o644)
        return inputs["proxy"], {}

    def remove(self, folder: StackFolder, outputs: Properties) -> None:
        """The proxy's own container goes with its resource; its settings stay in its volume."""

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        try:
            current = _current(outputs["proxy"])
        except LettaOpsError:
            return None  # the proxy's own resource says so
        return None if current == _settings(outputs) else "the proxy's settings differ"


def _settings(inputs: Mapping[str, Any]) -> str:
    return caddy_settings(inputs["upstreams"], inputs["tls"], int(inputs["max_request"]))


def _current(proxy: str) -> str:
    answer = execute(proxy, ["cat", SETTINGS])
    return answer.output if answer.code == 0 else ""


def _prove(server: str, inputs: Mapping[str, Any]) -> int:
    """Return how many agents the server sees; raises LettaOpsError (`server-not-proven`)."""
    handles = [f"--{name}={inputs[name]}" for name in ("model", "embedding") if inputs.get(name)]
    outcome = _ask(server, handles)
    if "failed" in outcome:
        raise _refused(server, inputs, f"the step '{outcome['failed']}': {outcome['reason']}")
    return int(outcome["agents"])


def _ensure_through(inputs: Mapping[str, Any]) -> None:
    """Ask through the proxy until it answers, as a client would."""
    tls = inputs["tls"]["mode"] != "off"
    port = PROXY_TLS_PORT if tls else PROXY_PORT
    host = inputs["proxy"]
    through = f"http{'s' if tls else ''}://{host}:{port}"
    deadline = time.monotonic() + START_SECONDS
    while True:
        outcome = _ask(inputs["upstreams"][0], [f"--through={through}"])
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


def _ask(server: str, arguments: Sequence[str]) -> dict[str, Any]:
    answer = execute(server, [PYTHON, "-c", PROOF.read_text(), *arguments])
    try:
        outcome = json.loads(answer.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        outcome = {"failed": "start", "reason": answer.output.strip()[-400:] or "no answer"}
    return dict(outcome)


def _switch(inputs: Mapping[str, Any]) -> None:
    answer = execute(inputs["proxy"], ["sh", "-c", SWITCH], _settings(inputs))
    if answer.code != 0:
        raise LettaOpsError(
            "proxy-settings",
            f"the proxy refuses its new settings, and goes on with the old ones: {answer.output}",
            "correct the tls and proxy settings, then run the same command again",
        )


def _refused(server: str, inputs: Mapping[str, Any], why: str) -> LettaOpsError:
    serving = upstreams_of(_current(inputs["proxy"]))
    still = f"; {', '.join(serving)} goes on serving" if serving else ""
    return LettaOpsError(
        "server-not-proven",
        f"the new server {server} failed {why}{still}. The last lines of its log:\n"
        + last_lines(server, _secrets(inputs)),
        "mend the configuration and run the same command again; nothing was switched",
    )


def _secrets(inputs: Mapping[str, Any]) -> list[Sensitive]:
    return [Sensitive(value) for value in inputs.get("secrets") or []]
