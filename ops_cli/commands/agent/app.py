"""`letta-ops agent`: its verbs."""

from __future__ import annotations

from ops_cli.commands.agent.archives import archive_agents, delete_agents, restore_agents
from ops_cli.commands.agent.compare import diff_agents
from ops_cli.commands.agent.exports import convert_file, export_agent
from ops_cli.commands.agent.imports import import_agents
from ops_cli.commands.agent.in_store import list_archives
from ops_cli.commands.agent.look import list_agents, show_agent, show_messages
from ops_cli.commands.agent.person import show_person
from ops_cli.options import new_app

app = new_app("Move, keep, restore and look at agents.")
app.command("list")(list_agents)
app.command("show")(show_agent)
app.command("messages")(show_messages)
app.command("export")(export_agent)
app.command("import")(import_agents)
app.command("convert")(convert_file)
app.command("archive")(archive_agents)
app.command("archives")(list_archives)
app.command("restore")(restore_agents)
app.command("diff")(diff_agents)
app.command("delete")(delete_agents)
app.command("person")(show_person)
