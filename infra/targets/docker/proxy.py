"""What the proxy runs with, brought into its container: its settings, and whom it sends clients to."""

from __future__ import annotations

from collections.abc import Sequence

from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_PROXY
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.names import Names
from infra.targets.docker.proxy_settings import upstream

SETTINGS = "/data/proxy/nginx.conf"
UPSTREAM = "/data/proxy/upstream"
LASTING = f"{UPSTREAM}.lasting"  # while a standby serves: the stack's servers

BEGIN = "set -eu; umask 077; mkdir -p /data/proxy /run/proxy/tmp\n"
TAKE = f"""\
printf '%s\\n' "$0" > {UPSTREAM}.new
mv {UPSTREAM}.new {UPSTREAM}
"""
# nginx checks a new file first; what it refuses doesn't replace what it runs. A reload closes idle
# connections, so there is none for settings that it has.
SWITCH = f"""\
{BEGIN}cat > {SETTINGS}.new
if ! cmp -s {SETTINGS}.new {SETTINGS}; then nginx -t -q -e stderr -c {SETTINGS}.new; fi
{TAKE}rm -f {LASTING}
if cmp -s {SETTINGS}.new {SETTINGS}; then rm {SETTINGS}.new; exit 0; fi
mv {SETTINGS}.new {SETTINGS}
if [ -s /run/proxy/nginx.pid ]; then nginx -e stderr -c {SETTINGS} -s reload; fi
"""
# A request at hand may have read the old address and be about to go there.
AND_WAIT = "sleep 0.5\n"
SERVE = f"{BEGIN}[ -e {LASTING} ] || cp {UPSTREAM} {LASTING}\n{TAKE}{AND_WAIT}"
BACK = f"[ ! -e {LASTING} ] || mv {LASTING} {UPSTREAM}\n{AND_WAIT}"


def switch(proxy: str, settings: str, servers: str) -> None:
    """Send clients to `servers` (an `upstream`), received as `settings` say.

    Raises LettaOpsError: `proxy-settings`, and that of `execute`.
    """
    answer = execute(proxy, ["sh", "-c", SWITCH, servers], settings)
    if answer.code != 0:
        raise LettaOpsError(
            "proxy-settings",
            f"the proxy refuses its new settings, and goes on with the old ones: {answer.output}",
            "correct the tls and proxy settings, then run the same command again",
        )


def running(proxy: str) -> tuple[str, str]:
    """The settings that the proxy has, and its `upstream`; empty where there's none."""
    return _read(proxy, SETTINGS), _read(proxy, UPSTREAM)


def send_to(names: Names, server: str | None) -> None:
    """Send all new requests to the container `server`; None: to the stack's own servers again.

    Raises LettaOpsError: `proxy-settings`, and that of `execute`.
    """
    proxy = names.container(SERVICE_PROXY)
    script: Sequence[str] = (BACK,) if server is None else (SERVE, upstream(server))
    answer = execute(proxy, ["sh", "-c", *script])
    if answer.code != 0:
        raise LettaOpsError(
            "proxy-settings",
            f"the proxy {proxy} could not be told whom to send requests to: {answer.output.strip()}",
            "look at its log: `letta-ops logs proxy`; then run the same command again",
        )


def _read(proxy: str, path: str) -> str:
    answer = execute(proxy, ["cat", path])
    return answer.output if answer.code == 0 else ""
