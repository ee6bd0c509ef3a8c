"""The base of the steps that run a sampler on a score network, with or without guidance: `Generate`, which
starts from noise, and `Translate`, which starts from images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

import dgflow.diffusion.rk45_specs  # noqa: F401  (a sampler that records may name)
from dgflow.diffusion.ancestral_specs import DDIM
from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.edm_sampler_specs import Heun
from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import DiscriminatorGuidance, Guidance, GuideTerm
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.networks.families import of_latents
from dgflow.specs.network import DataShape
from dgflow.specs.spec import LATER, BatchSize, Precision, Seeding
from dgflow.specs.step import COUNT, INDEX_AND_LABEL, LOG_RATIO, SampleStep, Slice, Weights, Work
from dgflow.specs.trajectory import Trajectory
from dgflow.steps.gain_choices import by_gain, check_gain, gain_choices
from dgflow.steps.guides import (
    check_guide,
    check_guides,
    check_knows_noise,
    evaluations_per_point,
    guide_evaluations,
    guide_uses,
    guides_of,
    guides_title,
    received_classes,
)
from dgflow.steps.pixels import SATURATED, counted, pixels, saturated

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dgflow.diffusion.batches import Batches
    from dgflow.diffusion.recorder import Recorder
    from dgflow.diffusion.samplers import Noise, Sample
    from dgflow.diffusion.selection.run import Draw, LogRatioAt, Selected
    from dgflow.specs.bound import Bound
    from dgflow.steps.systems import System
    from dgflow.store.shards import Columns


class _Loaded(NamedTuple):
    """The networks and settings that a worker caches between shards."""

    system: System
    device: torch.device
    batches: Batches
    log_ratio: LogRatioAt | None  # of the selection
    inputs: Bound


class Sampling(SampleStep):
    """Samples by index from a score network: the draws of sample i depend only on (`seed`, i), whatever the
    shard, worker or cluster.

    Columns: `index`, `label` (class, -1 without one), `image` (uint8 [H, W, C]) or, for a network of latents,
    `latent` (float16 [C, H, W], from the sampler), and with a discriminator `log_ratio` (the discriminator's
    logit at the last guided step, float32).

    With `selection` not every drawn sample is kept. `log_ratio` is then that of the selection's discriminator
    at the finished sample, and int32 columns record the cost of each sample, including everything that was
    rejected for it: `score_evaluations`, `guide_evaluations` [entries of guidance],
    `discriminator_evaluations`. Without a selection they are not recorded.

    `precision` applies to the networks' weights and activations; "tf32" applies only to CUDA's matrix
    products. The sampler's state is float64. In "float16" norms, embeddings and the linear layers of U-Nets
    stay float32, and an overflow raises an error with its step and noise level. `compile` makes one graph of
    the score network and its guidance by torch.compile: minutes of start-up per worker, worthwhile for long
    runs, and rounding that depends on the machine.
    """

    score: Weights
    sampler: SerializeAsAny[SamplerSpec] = Heun()
    guidance: tuple[Guidance, ...] = ()
    selection: Annotated[SerializeAsAny[SelectionSpec] | None, LATER] = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Precision = "float32"
    compile: bool = False
    batch_size: BatchSize = 256

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        block = self.sampler.block
        if block is not None and self.shard_size % block:
            raise ValueError(
                f"expected a shard_size that is a multiple of the sampler's shared_block {block}, found "
                f"{self.shard_size}"
            )
        check_guides(self.score, self.guidance)
        check_gain(self.score, self.guidance)
        if self.selection is not None:
            name, shape, classes = "selection.discriminator", self.score.step.shape, self.score.step.classes
            check_guide(name, name, self.selection.discriminator, "discriminator", shape, classes)
            if self.selection.asks_on_the_way:
                check_knows_noise(name, self.selection.discriminator)
            self.selection.check("selection", self.sampler, self.score, self.guidance)
            if self.seeds[1] == "edm":
                raise ValueError(
                    'seeding: expected "counter" with a selection, which needs further draws that EDM\'s '
                    'generators do not define, found "edm"'
                )
        return self

    @property
    def guides(self) -> dict[str, GuideTerm]:
        """The terms that have networks, by the path of the field that names them."""
        return guides_of("guidance", self.guidance)

    @property
    def classes(self) -> int:
        """The number of classes that the networks receive, 0 for none."""
        known = received_classes(self.score, self.guidance)
        return known or (0 if self.selection is None else self.selection.discriminator.step.classes)

    @property
    def guided_by(self) -> str:
        """The end of the step's title."""
        titles = " and ".join(map(guides_title, self.guidance))
        selected = "" if self.selection is None else f", {self.selection.title}"
        return f"{', guided by ' * bool(self.guidance)}{titles}{selected}"

    @property
    def seeds(self) -> tuple[int, Seeding]:
        return self.seed, "counter"

    @property
    def shape(self) -> DataShape:
        return self.score.step.shape

    @property
    def sides(self) -> tuple[int, int, int]:
        """(channels, height, width) of a sample."""
        return self.shape.channels, self.shape.image_size, self.shape.image_size

    @property
    def gives_latents(self) -> bool:
        return of_latents(self.score)

    @property
    def labelled(self) -> bool:
        return self.classes > 0

    @property
    def gives_log_ratio(self) -> bool:
        return self.selection is not None or any(
            term.role == "discriminator" for term in self.guides.values()
        )

    @property
    def row_bytes(self) -> int:
        values = self.shape.values * (2 if self.gives_latents else 1)
        counts = 0 if self.selection is None else 2 + len(self.guides)
        return INDEX_AND_LABEL + values + LOG_RATIO * self.gives_log_ratio + COUNT * counts

    def network_evaluations(self, rows: int) -> int:
        # The score network's evaluations; those of the guides are added.
        nfe = self.sampler.nfe if self.selection is None else self.selection.evaluations(self.sampler)[0]
        return round(rows * nfe * evaluations_per_point(self.guidance))

    def evaluations(self, guides: Sequence[GuideTerm]) -> tuple[float, list[float]]:
        """Returns the evaluations of the score network and of every guide per sample, as far as they can be
        counted."""
        return self.sampler.nfe, guide_evaluations(self.score, self.sampler, guides) if guides else []

    def work(self, amount: int) -> list[Work]:
        own, times = self.evaluations(list(self.guides.values()))
        looks = 0.0
        if self.selection is not None:
            drawn, looks = self.selection.evaluations(self.sampler)
            own, times = drawn, [each * drawn / own for each in times]
        return self.work_of(amount * own, [amount * each for each in times], amount * looks)

    def work_of(self, score: float, guides: Sequence[float], selecting: float) -> list[Work]:
        """Returns the work of the given numbers of evaluations: of the score network, of every guide, and of
        the discriminator of the selection."""
        work = partial(Work, batch=self.batch_size, precision=self.precision)
        works = [work(self.score.step, "forward", score * evaluations_per_point(self.guidance))]
        for term, times in zip(self.guides.values(), guides, strict=True):
            works += [work(network, use, times) for network, use in guide_uses(term)]
        if self.selection is not None:
            works.append(work(self.selection.discriminator.step, "forward", selecting))
        return works

    def choices(self, inputs: Bound) -> dict[str, GainChoice]:
        """Returns Gain's choices, by the path of the term: `guidance.0.by_gain`."""
        return by_gain(self.guides, inputs)

    def remarks(self, inputs: Bound) -> tuple[str, ...]:
        return tuple(f"{name}: {choice}" for name, choice in self.choices(inputs).items())

    def cautions(self) -> list[str]:
        """Returns warnings about a discriminator that both guides and selects (with the weights of any
        epoch), and about settings of `guidance` that do not fit one another or the sampler."""
        lines = self._cautions_of_guidance()
        if self.selection is None:
            return lines
        own = self.selection.discriminator
        return lines + [
            f"{self.title}: {own.title} ({own.which}) also guides as {path}; it compares real images with "
            "unguided samples, so that its log-ratio counts twice: select by one that was trained on guided "
            "samples, or use it once"
            for path, term in self.guides.items()
            if any(each.fingerprint == own.fingerprint for each in term.guides)
        ]

    def _cautions_of_guidance(self) -> list[str]:
        lines = []
        scalings = [term for term in self.guidance if isinstance(term, EpsilonScaling)]
        if any(term.twice for term in scalings) and not isinstance(self.sampler, DDIM):
            lines.append(
                f"{self.title}: epsilon scaling with twice=True has an effect only with DDIM, found "
                f"{type(self.sampler).__name__}: leave it out"
            )
        if scalings or any(isinstance(term, NetworkGuidance) for term in self.guidance):
            lines += [
                f"{self.title}: Gain chooses settings of guidance.{number}, but was measured on the score "
                "network without corrections of its denoised image: give these settings as numbers"
                for number, term in enumerate(self.guidance)
                if isinstance(term, DiscriminatorGuidance) and term.asks_gain
            ]
        return lines

    def doubts(self, part: Slice, inputs: Bound) -> tuple[str, ...]:
        return tuple(choice.warning for choice in self.choices(inputs).values() if choice.warning)

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Loads the networks; the returned function draws the samples [start, stop)."""
        from dgflow.diffusion.acceleration import device
        from dgflow.diffusion.batches import Batches
        from dgflow.steps.systems import Networks

        networks = Networks(inputs, device(), self.precision)
        choices = gain_choices(self.guides, inputs)
        system = networks.system(self.score, self.guidance, "guidance", choices, compile=self.compile)
        block = self.sampler.block
        batches = Batches(
            block or self.batch_size, of=self.name, fixed=block is not None, make_room=system.forget_graphs
        )
        log_ratio = None
        if self.selection is not None:
            log_ratio = networks.log_ratio("selection.discriminator", self.selection.discriminator)
        loaded = _Loaded(system, networks.device, batches, log_ratio, inputs)
        return lambda start, stop: self._rows(loaded, self.draws(inputs, start, stop), start, stop)

    @abstractmethod
    def draws(self, inputs: Bound, start: int, stop: int) -> Callable[[Tensor], Draw]:
        """Reads the inputs of the samples [start, stop); the returned function gives the inputs of samples by
        index (int64 [B]), on the device of the index."""

    def _rows(self, loaded: _Loaded, draws: Callable[[Tensor], Draw], start: int, stop: int) -> Columns:
        from dgflow.diffusion.acceleration import products

        metrics: dict[str, float] = {}
        with products(self.precision):
            if self.selection is None:
                make = partial(self._batch, loaded, draws)
                parts = loaded.batches.map(make, start, stop)
            else:
                selected = loaded.batches.whole(partial(self._select, loaded, draws, start, stop))
                loaded.system.check(self.name)
                metrics["utilisation"] = selected.utilisation
                parts = [self._selected(selected, start, stop)]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return counted(columns, columns.pop(SATURATED, None), metrics)

    def _batch(self, loaded: _Loaded, draws: Callable[[Tensor], Draw], start: int, stop: int) -> Columns:
        import torch

        from dgflow.diffusion.recorder import Recorder

        draw = draws(torch.arange(start, stop, device=loaded.device))
        followed = loaded.inputs.followed
        recorder = None
        if followed is not None and followed.index == start:
            recorder = Recorder(loaded.system.terms)
        sample = self._sample(loaded, draw, recorder)
        loaded.system.check(self.name)
        columns = self._columns(sample.x, draw.labels, sample.log_ratio, start)
        loaded.inputs.show(columns)
        if recorder is not None and followed is not None:
            followed.keep(partial(self._trajectory, recorder, sample.x, start))
        return columns

    def _sample(self, loaded: _Loaded, draw: Draw, recorder: Recorder | None = None) -> Sample:
        begin = {} if draw.start is None else {"start": draw.start}
        terms = loaded.system.terms if recorder is None else recorder.guides
        return self.sampler.sample(loaded.system.score, draw.latents, draw.asked, terms, draw.noise, **begin)

    def _trajectory(self, recorder: Recorder, x: Tensor, index: int) -> Trajectory | None:
        """Returns the path of the first row of a batch of samples `x`; None if none was recorded."""
        import torch

        if (recorded := recorder.estimates()) is None:
            return None
        levels, estimates = recorded
        frames = torch.cat([estimates.double(), x[:1].double()])
        shown = frames.to(torch.float16).cpu().numpy() if self.gives_latents else pixels(frames)
        return Trajectory(index, tuple(levels), shown)

    def _select(
        self, loaded: _Loaded, draws: Callable[[Tensor], Draw], start: int, stop: int, batch_size: int
    ) -> Selected:
        from dgflow.diffusion.selection.run import Run

        assert self.selection is not None and loaded.log_ratio is not None
        score, terms = loaded.system.score, loaded.system.terms
        path = self.sampler.path(score, terms, loaded.device) if self.sampler.has_path else None
        run = Run(
            draw=draws,
            sample=partial(self._sample, loaded),
            path=path,
            log_ratio=loaded.log_ratio,
            entries=len(terms),
            seed=self.seed,
            sides=self.sides,
            batch_size=batch_size,
            device=loaded.device,
        )
        return self.selection.select(run, start, stop, loaded.inputs)

    def _selected(self, selected: Selected, start: int, stop: int) -> Columns:
        columns = self._columns(selected.x, selected.labels, selected.log_ratio, start)
        columns["score_evaluations"] = selected.score_evaluations.astype(np.int32)
        if selected.guide_evaluations.shape[1]:
            columns["guide_evaluations"] = selected.guide_evaluations.astype(np.int32)
        columns["discriminator_evaluations"] = selected.discriminator_evaluations.astype(np.int32)
        return columns

    def _columns(self, x: Tensor, labels: Tensor, log_ratio: Tensor | None, start: int) -> Columns:
        """Returns the columns of the samples from `start` on."""
        import torch

        finite_B = x.isfinite().flatten(1).all(dim=1)
        if not finite_B.all():
            bad = start + int((~finite_B).nonzero()[0])
            raise FloatingPointError(
                f"expected finite pixels, found NaN or infinity in sample {bad} of {self.name} (and "
                f"{int((~finite_B).sum()) - 1} more of its batch); the score network or the discriminator "
                "gives them: look at its training curves, take an earlier epoch or a smaller guidance weight"
            )
        columns = {"index": np.arange(start, start + len(x)), "label": labels.cpu().numpy()}
        if self.gives_latents:
            columns["latent"] = x.to(torch.float16).cpu().numpy()
        else:
            columns["image"] = pixels(x)
            columns[SATURATED] = saturated(x)
        if log_ratio is not None:
            columns["log_ratio"] = log_ratio.float().cpu().numpy()
        return columns

    def normals(self, index_B: Tensor) -> tuple[Tensor, Noise]:
        """Returns the latents, and the noise of a step, of samples `index_B`."""
        from dgflow.diffusion import noise

        seed, sides = self.seed, self.sides
        latents = noise.standard_normal(seed, index_B, sides, step=0, draw=noise.LATENT)
        return latents, lambda step: noise.standard_normal(seed, index_B, sides, step=step, draw=noise.CHURN)
