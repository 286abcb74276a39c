"""`python -m ops_cli`: the command line, for services that know an interpreter and no PATH."""

from ops_cli.main import main

main()
