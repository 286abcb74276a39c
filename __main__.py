"""The Pulumi program of the checkout, for a literal `pulumi up`; `letta-ops up` runs the same one.

It stands here and not behind `main: infra`, because Pulumi looks for a relative virtualenv from the
project's folder when it starts the program, but from the program's when it starts the providers.
"""

from infra.program import main

main()
