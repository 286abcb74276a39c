"""What runs a schedule on a machine without our service: a unit for systemd, lines for cron. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from backups.schedule import Job

UNIT = """\
# Runs the schedule of Letta stack '{stack}'. Written by letta-ops. To install it:
#   {command} --print systemd | sudo tee /etc/systemd/system/{name}.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now {name}
[Unit]
Description=Scheduled backups and drills of Letta stack {stack}
Wants=network-online.target
After=network-online.target

[Service]
ExecStart={start}
User={user}
{environment}Restart=always
RestartSec=10
# The scheduler ends the command at hand itself.
KillMode=mixed
TimeoutStopSec=120
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
"""


def systemd_unit(
    stack: str, program: Sequence[str], user: str, environment: Mapping[str, str]
) -> str:
    """A service that keeps the scheduler running. `program` is letta-ops with the stack's name."""
    variables = (f"{name}={text}" for name, text in environment.items())
    return UNIT.format(
        stack=stack,
        name=f"letta-ops-{stack}",
        command=f"letta-ops --stack {stack} backup schedule",
        start=" ".join(
            _quoted(word).replace("$", "$$") for word in (*program, "backup", "schedule", "--run")
        ),
        user=user,
        environment="".join(f"Environment={_quoted(variable)}\n" for variable in variables),
    )


def crontab(
    jobs: Sequence[tuple[Job, str]], program: Sequence[str], environment: Mapping[str, str]
) -> str:
    """Lines for `crontab -e`. Cron neither catches up with what it missed, nor tries again."""
    pairs = [f"{name}={shlex.quote(text)}" for name, text in environment.items()]
    # Part of the line: as lines of their own they would be everybody's, further down.
    export = f"export {' '.join(pairs)}; " if pairs else ""
    lines = ["# Written by letta-ops; put it into `crontab -e`. Cron mails what is printed."]
    for job, schedule in jobs:
        calls = [shlex.join([*program, *arguments]) for arguments in job.commands]
        line = f"{' '.join(schedule.split())} {export}{' && '.join(calls)}"
        lines.append(line.replace("%", r"\%"))
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    """A word of a systemd unit, taken as it is (systemd.syntax(7), and systemd.unit(5), Specifiers)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
