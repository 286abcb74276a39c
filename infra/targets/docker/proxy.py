"""Which settings the proxy runs with: brought into its container, checked, taken over without a pause."""

from __future__ import annotations

from infra.errors import LettaOpsError
from infra.stack.deployment import SERVICE_PROXY
from infra.targets.docker.engine.execution import execute
from infra.targets.docker.names import Names

SETTINGS = "/data/proxy/nginx.conf"
LASTING = f"{SETTINGS}.lasting"  # while a standby serves: those of the stack's servers

# nginx checks the new file first; what it refuses doesn't replace what it runs.
TAKE = f"""\
nginx -t -q -e stderr -c {SETTINGS}.new
mv {SETTINGS}.new {SETTINGS}
if [ -s /run/proxy/nginx.pid ]; then nginx -e stderr -c {SETTINGS} -s reload; fi
"""
BEGIN = "set -eu; umask 077; mkdir -p /data/proxy /run/proxy/tmp\n"
SWITCH = f"{BEGIN}cat > {SETTINGS}.new\n{TAKE}rm -f {LASTING}\n"
# A reload is a signal: until the workers of before take no more clients, they send them where they did.
AND_WAIT = """\
left() {{
    for one in $before; do
        case "$(tr '\\0' ' ' 2>/dev/null </proc/$one/cmdline)" in
            *"shutting down"*) ;;
            "nginx: worker"*) return 0 ;;
        esac
    done
    return 1
}}
before=$(cd /proc; echo [0-9]*)
{take}
tries=0
while left; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then echo "its workers don't take over its settings"; exit 1; fi
    sleep 0.1
done
"""
SERVE = f"""\
[ -e {LASTING} ] || cp {SETTINGS} {LASTING}
sed "s|set \\$letta http://[^:]*:|set \\$letta http://$0:|" {LASTING} > {SETTINGS}.new
"""
BACK = f"[ -e {LASTING} ] || exit 0\ncp {LASTING} {SETTINGS}.new\n"


def send_to(names: Names, server: str | None) -> None:
    """Send all new requests to the container `server`; None: where the stack's settings say.

    Returns when no request goes elsewhere. Raises LettaOpsError: `proxy-settings`, and that of `execute`.
    """
    script = BACK if server is None else SERVE
    ending = f"rm -f {LASTING}\n" if server is None else ""
    whole = BEGIN + script + AND_WAIT.format(take=TAKE) + ending
    proxy = names.container(SERVICE_PROXY)
    answer = execute(proxy, ["sh", "-c", whole, *([server] if server else [])])
    if answer.code != 0:
        raise LettaOpsError(
            "proxy-settings",
            f"the proxy {proxy} could not be told whom to send requests to: {answer.output.strip()}",
            "look at its log: `letta-ops logs proxy`; then run the same command again",
        )
