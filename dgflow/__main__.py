"""`python -m dgflow`: the command `dgflow`."""

from dgflow.cli.tool import main

main()
