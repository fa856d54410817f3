"""``python -m workflows`` is the command line."""

from workflows.cli.app import main

main()
