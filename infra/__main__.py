"""The Pulumi program: stack configuration -> resources of the chosen target."""

from __future__ import annotations

from infra.program import main

main()
