"""``python -m workflows`` is the command line."""

from workflows.cli import main

main()
