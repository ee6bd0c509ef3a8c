"""Runs the command `dgflow` for `python -m dgflow`."""

from dgflow.cli.tool import main

main()
