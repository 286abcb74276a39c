"""`letta-ops registry`: its verbs."""

from __future__ import annotations

from ops_cli.commands.registry.ensure import ensure_agent
from ops_cli.commands.registry.links import (
    get_link,
    link_agent,
    list_links,
    show_history,
    unlink_agent,
)
from ops_cli.commands.registry.reconcile import reconcile
from ops_cli.commands.registry.tables import export_links, import_links
from ops_cli.options import new_app

app = new_app("Which agent is whose: an application's ids and Letta's.")
app.command("ensure")(ensure_agent)
app.command("get")(get_link)
app.command("link")(link_agent)
app.command("unlink")(unlink_agent)
app.command("list")(list_links)
app.command("history")(show_history)
app.command("reconcile")(reconcile)
app.command("export")(export_links)
app.command("import")(import_links)
