"""Detects invalid networks before any work: a plan checks their arithmetic, a run builds them.

All invalid networks of a recipe are reported together. Torch is loaded only to build.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dgflow.specs.graph import Node
from dgflow.specs.step import NetworkStep


def check_sizes(nodes: Sequence[Node]) -> None:
    """Raises ValueError for networks whose settings are invalid, as far as arithmetic can tell."""
    _check(nodes, lambda step: step.architecture.check(step.shape._replace(num_classes=step.classes)))


def check_built(nodes: Sequence[Node]) -> None:
    """Builds every network on torch's meta device, which allocates no memory. Networks that users define are
    built on the CPU.

    Raises ValueError, which lists the networks that cannot be built.
    """

    def build(step: NetworkStep) -> None:
        import torch

        with torch.device("meta"):
            step.fresh()

    _check(nodes, build)


def _check(nodes: Sequence[Node], check: Callable[[NetworkStep], object]) -> None:
    faults = []
    for node in nodes:
        step = node.step
        if isinstance(step, NetworkStep):
            try:
                check(step)
            except Exception as error:  # any error, since the code may be a user's own
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                faults.append((f"{step.title} ({step.network.title}): {kind}{error}", error))
    if not faults:
        return
    if len(faults) == 1:
        raise ValueError(f"a network of the recipe cannot be built: {faults[0][0]}") from faults[0][1]
    lines = "\n".join(f"- {fault}" for fault, _ in faults)
    raise ValueError(f"{len(faults)} networks of the recipe cannot be built:\n{lines}") from faults[0][1]
