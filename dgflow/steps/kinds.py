"""Import the classes that records may name; without a record, recipes import them on first use."""

from importlib import import_module

import dgflow.steps.sweeping.sweep  # noqa: F401  (kinds that commands make, and recipes do not name)


def load_kinds() -> None:
    """Import every class that a recipe can name, so that records can be rebuilt. Loads neither torch nor
    ray.
    """
    package = import_module(__name__.partition(".")[0])
    for name in package.__all__:
        getattr(package, name)
