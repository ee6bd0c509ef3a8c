"""Compile an evaluation as one graph: the score network and all guidance that acts, forward and backward.

All inputs of a graph are tensors on the device. Values on the host (the entries that act at these noise
levels, the order within a step) select the graph, so no graph is compiled again from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from dgflow.diffusion.evaluation import Network, Place, eagerly
from dgflow.diffusion.guidance import ANYWHERE, Advice, Correction, Guide, LogRatios, Point, acting

PADDED = 0.75
"""Smallest batch, as a share of a compiled batch size, that is padded to this size rather than compiled for
its own: the batches of a shard differ by one row."""


class OneGraph:
    """An `evaluation.Evaluate` with one compiled graph per kind of evaluation and batch size.

    A graph is traced and compiled at its first use. On CUDA it is replayed as a CUDA graph. One instance
    serves one system, a score network and its guidance. Results equal those of `eagerly` up to rounding,
    which depends on the machine's compiler.

    Args:
        backend: backend of torch.compile.

    Raises ValueError for a network that copies a value from the device to the host.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self._graphs: dict[tuple[_Kind, int], _Graph] = {}

    def __call__(
        self, network: Network, state: tuple[Tensor, ...], guidance: Sequence[Guide], place: Place
    ) -> tuple[Advice, Tensor | None]:
        """See `evaluation.Evaluate`."""
        began, began_bounds = place.point(state[0], state[0]).began
        if began is place.sigma:  # without churn; the inputs of a graph must be separate tensors
            began = began.clone()
        acts = tuple(acting(guidance, place.order, place.sigma_bounds, began_bounds))
        for entry, act in zip(guidance, acts, strict=True):
            check = getattr(entry, "check", None)
            if act and check is not None:
                check(place.sigma_bounds, began_bounds)
        # If no entry acts, both orders share a graph.
        kind = _Kind(network, place.order if any(acts) else 1, acts, place.class_labels is not None)
        rows = len(place.sigma)
        step = place.step
        if isinstance(step, int):
            step = torch.full((rows,), step, device=place.sigma.device)
        labels = () if place.class_labels is None else (place.class_labels,)
        given = (place.sigma, began, step, *labels, *state)
        size = self._size(kind, rows)
        if size > rows:
            given = tuple(torch.cat([each, each[-1:].expand(size - rows, *each.shape[1:])]) for each in given)
        if (kind, size) not in self._graphs:
            self._graphs[kind, size] = self._compiled(kind, guidance, given)
        return self._graphs[kind, size](given, rows)

    def _size(self, kind: _Kind, rows: int) -> int:
        """The compiled batch size for `rows` rows: an existing one that is close enough, or `rows`."""
        sizes = (size for compiled, size in self._graphs if compiled == kind and rows <= size)
        return min((size for size in sizes if rows >= PADDED * size), default=rows)

    def forget(self) -> None:
        """Drop all graphs and free their device memory, for example before batches of another size."""
        if self._graphs:
            self._graphs.clear()
            torch.compiler.reset()

    def _compiled(self, kind: _Kind, guidance: Sequence[Guide], given: tuple[Tensor, ...]) -> _Graph:
        guides = [
            entry if acts else _IDLE[isinstance(entry, Correction)]
            for entry, acts in zip(guidance, kind.acts, strict=True)
        ]
        asked: list[bool] = []

        def run(*given: Tensor) -> tuple[Tensor | None, ...]:
            sigma, began, step, *rest = given
            labels, state = (rest[0], rest[1:]) if kind.labelled else (None, rest)
            place = Place(sigma, labels, step, kind.order, ANYWHERE, began, ANYWHERE)
            advice, v = eagerly(kind.network, tuple(state), guides, place)
            asked[:] = advice.asked
            return advice.denoised, advice.gradient, v, *advice.log_ratios

        # Tracing runs the function once and includes the backward pass; the result is not needed.
        with torch.no_grad():
            try:
                module = make_fx(run)(*given)
            except RuntimeError as error:
                if "tracing tensor" not in str(error):
                    raise
                raise ValueError(
                    "compile: expected networks that copy no value from the device to the host (.item(), "
                    f"`if` on a tensor, .cpu()), found one that does: {str(error).splitlines()[0]}; change "
                    "its forward, or omit compile"
                ) from error
        on_cuda = given[0].is_cuda
        options: dict[str, Any] | None = None
        if self.backend == "inductor":
            # Constant weights are laid out once for the CPU's convolutions.
            options = {"triton.cudagraphs": True} if on_cuda else {"freezing": True}
        compiled = torch.compile(module, fullgraph=True, dynamic=False, backend=self.backend, options=options)
        return _Graph(compiled, tuple(asked), on_cuda)


class _Kind(NamedTuple):
    """The key of a graph: the network, the order of the evaluation, the entries of guidance that act, and
    whether there are class labels."""

    network: Network
    order: int
    acts: tuple[bool, ...]
    labelled: bool


@dataclass(frozen=True)
class _Graph:
    """A compiled evaluation; `asked` is True for each entry of guidance that it evaluates."""

    run: Callable[..., tuple[Tensor | None, ...]]
    asked: tuple[bool, ...]
    on_cuda: bool

    def __call__(self, given: tuple[Tensor, ...], rows: int) -> tuple[Advice, Tensor | None]:
        """The results for the first `rows` rows."""
        with torch.no_grad():
            if self.on_cuda:
                # The next replay overwrites the outputs of this one.
                torch.compiler.cudagraph_mark_step_begin()
            denoised, gradient, v, *log_ratios = (
                None if value is None else (value.clone() if self.on_cuda else value)[:rows]
                for value in self.run(*given)
            )
        assert denoised is not None
        of_entries: LogRatios = log_ratios
        return Advice(denoised, gradient, of_entries, self.asked), v


class _IdleTerm:
    """A term that does not act."""

    def __call__(self, point: Point) -> tuple[None, None]:
        return None, None


class _IdleCorrection:
    """A correction that does not act."""

    def correct(self, point: Point) -> None:
        return None


_IDLE: dict[bool, Guide] = {False: _IdleTerm(), True: _IdleCorrection()}
