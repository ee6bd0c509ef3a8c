"""The command lines of recipes (`main`), and of `dgflow` (`dgflow metrics`, `export`, `gc` and others)."""

from dgflow.cli.recipe import application, main
from dgflow.cli.root import open_root

__all__ = ["application", "main", "open_root"]
