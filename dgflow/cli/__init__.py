"""The command lines: of a recipe (`main`), and of dgflow itself (`dgflow metrics`, `export` and `gc`)."""

from dgflow.cli.recipe import application, main
from dgflow.cli.root import open_root

__all__ = ["application", "main", "open_root"]
