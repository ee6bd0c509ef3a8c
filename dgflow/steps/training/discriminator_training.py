"""The training of a `TrainDiscriminator`: its data, loss, optimiser and measurements. Imports torch, so it is
imported only where a training runs."""

from __future__ import annotations

from typing import Any

import torch

from dgflow.diffusion.acceleration import device
from dgflow.specs.bound import Bound
from dgflow.specs.step import Weights
from dgflow.specs.training_task import Measurement, TrainingTask
from dgflow.steps.frozen_score import FrozenScore
from dgflow.steps.gain_items import GainItems
from dgflow.steps.training.clean_task import CleanTask
from dgflow.steps.training.discriminator_data import RealAndFake
from dgflow.steps.training.discriminator_fields import DiscriminatorFields
from dgflow.steps.training.discriminator_task import LogRatioTask
from dgflow.steps.training.draws import fresh_network
from dgflow.steps.training.gradient_matching import GradientMatching
from dgflow.steps.training.stream import Stream


def training_task(step: DiscriminatorFields, inputs: Bound) -> TrainingTask:
    """Returns the data, loss, optimiser and measurements of a training, on the device of this process."""
    own_device = device()
    data = RealAndFake(
        step,
        inputs,
        names=step.slice_names,
        fakes=step.fake_rows(step.batch_size // 2),
        held_out=step.fake_rows(step.held_out_pairs),
        num_classes=step.classes,
        device=own_device,
    )
    network = fresh_network(step, inputs, own_device)
    task = _task(step, inputs, data, own_device)
    trained = step.trained_part(network)
    learning = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    return TrainingTask(
        network=network,
        trained=trained,
        optimizer=torch.optim.Adam(learning, lr=step.learning_rate, weight_decay=step.weight_decay),
        batch_size=step.batch_size,
        steps_per_epoch=step.steps_per_epoch,
        loss=task.loss,
        held_out=step.held_out_items,
        measure=task.measure,
        summarise=task.summarise,
        further=_further(step, inputs, data.real, own_device),
        data=data.streams,
        device=own_device,
        precision=step.activations,
    )


def _task(
    step: DiscriminatorFields, inputs: Bound, data: RealAndFake, device: torch.device
) -> LogRatioTask | CleanTask:
    """Returns the task: loss and held-out measurements."""
    common: dict[str, Any] = {
        "data": data,
        "kind": "bce" if step.matches_gradient else step.loss,
        "time_map": step.architecture.time_map(),
        "conditional": step.conditional,
        "precision": step.precision,
        "device": device,
    }
    if step.noise == "none":
        return CleanTask(**common)
    return LogRatioTask(
        **common,
        seed=step.seed,
        levels=step.levels,
        drawn_range=step.drawn_range,
        measured_range=(step.sigma_min, step.sigma_max),
        matching=_matching(step, inputs, device),
    )


def _matching(step: DiscriminatorFields, inputs: Bound, device: torch.device) -> GradientMatching | None:
    """Returns the loss of the gradient, if there is one."""
    if step.score is None:
        return None
    score = _frozen(step, "score", step.score, inputs, device)
    low, high = step.drawn_range
    sigma_range = score.trained_range(
        min(low, step.sigma_min), max(high, step.sigma_max), use="to match the gradient at"
    )
    return GradientMatching(score, step.gradient_weight, sigma_range)


def _frozen(
    step: DiscriminatorFields, name: str, score: Weights, inputs: Bound, device: torch.device
) -> FrozenScore:
    """Returns the score network of the field `name`, which is loaded at its first evaluation."""
    return FrozenScore(
        score,
        load=lambda: inputs.network(name),
        conditional=step.conditional,
        precision=step.precision,
        device=device,
        name=step.name,
    )


def _further(
    step: DiscriminatorFields, inputs: Bound, real: Stream, device: torch.device
) -> list[Measurement]:
    """Returns the measurement of Gain, if Gain is measured."""
    if step.gain_of is None:
        return []
    items = GainItems(
        rows=real.held_out_rows,
        images=step.gain_images,
        score=_frozen(step, "gain_of", step.gain_of, inputs, device),
        seed=step.seed,
        levels=step.levels,
        sigma_range=(step.sigma_min, step.sigma_max),
        time_map=step.architecture.time_map(),
        batch_size=step.batch_size,
    )
    return [Measurement(items.items, items.measure, items.summarise)]
