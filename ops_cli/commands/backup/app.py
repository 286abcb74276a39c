"""`letta-ops backup`: its verbs."""

from __future__ import annotations

from ops_cli.commands.backup.catalog import keep_backup, list_backups, prune_backups, show_backup
from ops_cli.commands.backup.create import create_backup
from ops_cli.commands.backup.drill import drill_backup
from ops_cli.commands.backup.keygen import keygen
from ops_cli.commands.backup.restore import restore_backup
from ops_cli.commands.backup.schedule import schedule
from ops_cli.commands.backup.verify import verify_backup
from ops_cli.options import new_app

app = new_app("Make, prove and restore backups.")
app.command("create")(create_backup)
app.command("list")(list_backups)
app.command("show")(show_backup)
app.command("verify")(verify_backup)
app.command("restore")(restore_backup)
app.command("drill")(drill_backup)
app.command("prune")(prune_backups)
app.command("keep")(keep_backup)
app.command("schedule")(schedule)
app.command("keygen")(keygen)
