"""The Pulumi program of an installed letta-ops: stack configuration -> resources of its target."""

from infra.program import main

main()
