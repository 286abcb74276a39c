"""`letta-ops migrate`: its verbs."""

from __future__ import annotations

from ops_cli.commands.migrate.adopt import adopt_installation
from ops_cli.commands.migrate.apply import apply_migration
from ops_cli.commands.migrate.from_sqlite import bring_from_sqlite
from ops_cli.commands.migrate.looking import plan_migration, show_status
from ops_cli.commands.migrate.rehearse import rehearse_migration
from ops_cli.commands.migrate.rollback import rollback_migration
from ops_cli.options import new_app

app = new_app("Go to another release of Letta, rehearsed, and back.")
app.command("status")(show_status)
app.command("plan")(plan_migration)
app.command("rehearse")(rehearse_migration)
app.command("apply")(apply_migration)
app.command("rollback")(rollback_migration)
app.command("from-sqlite")(bring_from_sqlite)
app.command("adopt")(adopt_installation)
