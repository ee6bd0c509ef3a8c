"""TrainDiscriminator with loss="bce+gradient": the metrics of an epoch, the evaluations, workers, and its
cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from inprocess import complete
from networks.test_second_derivatives import randomised
from steps.identities import FAKES, REAL, SCORE
from torch import Tensor

from dgflow import Perceptron, Pretrained, SongUNet, TrainClassifier, TrainDiscriminator
from dgflow.diffusion import noise
from dgflow.diffusion.times import tau_from_sigma
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.estimate.operations import Networks, Operations
from dgflow.networks.families import score_network
from dgflow.runtime.training.loop import share
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.step import Work
from dgflow.specs.training_task import TrainingTask
from dgflow.steps.training.discriminator_task import LogRatioTask
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store

WEIGHT = 0.5


def matched(source, **fields: Any) -> TrainDiscriminator:
    step = tiny.discriminator(source, epochs=1)
    fields = {"loss": "bce+gradient", "score": tiny.score(source).last(), "gradient_weight": WEIGHT} | fields
    return step.model_copy(update=fields)


@dataclass
class Trained:
    step: TrainDiscriminator
    store: ObjectStore
    inputs: Bound

    @property
    def metrics(self) -> dict[str, Any]:
        return self._receipt.metrics

    def network(self) -> torch.nn.Module:
        steps = Root(self.store).step_store(self.step)
        return Bound({"own": BoundWeights(self.step, steps, self._receipt, self.inputs)}).network("own")

    @property
    def _receipt(self):
        steps = Root(self.store).step_store(self.step)
        return steps.receipt(steps.key("epochs", 1, self.inputs.digests))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_images(tmp_path_factory.mktemp("gradient") / "images.npz")


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory) -> Trained:
    store = open_store(str(tmp_path_factory.mktemp("gradient") / "root"))
    step = matched(source)
    return Trained(step, store, complete(step, store))


def falls(trained: Trained) -> tuple[Tensor, Tensor]:
    """Computes |x0 - D'|^2 - |x0 - D|^2, D' = D + sigma^2 grad l, over sigma^2, of the 16 held-out images at
    each of 8 levels, and the cross-entropy of the real ones, directly from the definition of the loss."""
    step, inputs = trained.step, trained.inputs
    rows, pair = inputs.rows("real", None, 48, 64), torch.arange(16 * 8)
    item = 2 * pair  # the real item of each pair
    x0 = torch.from_numpy(rows["image"]).permute(0, 3, 1, 2).double()[pair // 8] / 127.5 - 1
    labels = torch.from_numpy(rows["label"].astype(np.int64))[pair // 8]
    u = noise.uniform(step.seed, pair, (), step=0, draw=noise.EVALUATION_LEVEL)
    sigma = 0.0447 * torch.exp((pair % 8 + u) * np.log(80 / 0.0447) / 8)
    z = noise.standard_normal(step.seed, item, (1, 8, 8), step=0, draw=noise.EVALUATION_NOISE)
    x = (x0 + sigma[:, None, None, None] * z).requires_grad_()
    y = (x / (1 + sigma**2).sqrt()[:, None, None, None]).float()
    logit = trained.network()(y, tau_from_sigma(sigma).float(), labels)
    (gradient,) = torch.autograd.grad(logit.sum(), x)
    assert step.score is not None
    with torch.no_grad():
        model = score_network(step.score).score_model(inputs.network("score"))
        denoised = model.denoiser(x.detach(), sigma, labels).double()
    after = denoised + sigma.square()[:, None, None, None] * gradient
    fall = ((after - x0).square() - (denoised - x0).square()).flatten(1).sum(1)
    return fall / sigma.square(), torch.nn.functional.softplus(-logit.detach().double())


def test_an_epoch_records_cross_entropy_and_the_gradient_s_denoising_error_apart(trained):
    metrics, (expected, on_real) = trained.metrics, falls(trained)
    assert metrics["held_out_gradient"] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert metrics["held_out_loss"] == pytest.approx(
        metrics["held_out_bce"] + WEIGHT * metrics["held_out_gradient"], rel=1e-6
    )
    assert abs(metrics["held_out_gradient"]) > 1e-3
    by_level = expected.view(16, 8).mean(0).tolist()
    assert [level["gradient"] for level in metrics["by_sigma"]] == pytest.approx(by_level, rel=1e-3)
    assert 0.2 < float(on_real.mean()) / metrics["held_out_bce"] < 5


def test_a_discriminator_that_has_learned_nothing_has_the_cross_entropy_of_chance_alone(source, trained):
    store = trained.store
    step = matched(source, learning_rate=1e-9, network=Perceptron(width=8, layers=1))
    metrics = Trained(step, store, complete(step, store)).metrics
    assert metrics["held_out_loss"] == pytest.approx(step.chance.loss, abs=1e-5)
    assert step.chance.loss == math.log(2) and metrics["held_out_gradient"] == pytest.approx(0, abs=1e-5)


def task_of(step: TrainDiscriminator, inputs: Bound) -> tuple[TrainingTask, LogRatioTask]:
    task = step.training_task(inputs)
    own = task.loss.__self__  # pyright: ignore[reportFunctionMemberAccess]
    assert isinstance(own, LogRatioTask) and own.matching is not None
    randomised(task.trained).requires_grad_(True)
    return task, own


def slopes(task: TrainingTask, workers: int) -> Tensor:
    """Returns the gradient that these workers compute together, each weighting its loss as the loop does."""
    task.network.train().zero_grad()
    for rank in range(workers):
        slots = torch.tensor(share(16, rank, workers))
        (task.loss(task.network, slots, 3).mean() * len(slots) / 16).backward()
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in task.trained.parameters()
        ]
    )


def test_workers_with_uneven_shares_find_the_gradient_of_the_whole_batch(trained):
    task, _ = task_of(trained.step, trained.inputs)
    whole = slopes(task, 1)
    assert float(whole.norm()) > 0.01
    for workers in (3, 16):  # of 16 workers each has one row, real or fake
        torch.testing.assert_close(slopes(task, workers), whole, rtol=1e-3, atol=1e-5)
    for data in task.data:
        data.close()


def test_frozen_features_pass_the_gradient_on_and_learn_nothing(source, trained):
    store = trained.store
    below = TrainClassifier(
        real=tiny.real(source)[:64], network=tiny.ENCODER, epochs=1, batch_size=16, noise="linear_vp"
    )
    step = matched(source, features=below.last())
    task, own = task_of(step, complete(step, store))
    network: Any = task.network
    assert float(slopes(task, 1).norm()) > 0.01
    assert all(parameter.grad is None for parameter in network.features.parameters())
    with torch.no_grad():
        assert abs(float(task.measure(network.eval(), torch.arange(32))["gradient"].sum())) > 1e-3
    for data in task.data:
        data.close()


def test_levels_that_the_score_network_does_not_know_have_cross_entropy_alone(trained):
    task, own = task_of(trained.step, trained.inputs)
    assert own.matching is not None
    object.__setattr__(own.matching, "sigma_range", (0.5, 5.0))
    with torch.no_grad():
        values = task.measure(task.network.eval(), torch.arange(256))
    matched = (values["gradient"] != 0).bool()
    inside = (values["sigma"] >= 0.5) & (values["sigma"] <= 5.0)
    assert torch.equal(matched, inside & values["is_real"]) and 0 < int(matched.sum()) < 128


def test_the_plan_counts_second_derivatives_and_the_score_network_s_evaluations(source, tmp_path):
    step = matched(source)
    (state,) = (
        each for each in plan(step, open_store(str(tmp_path))) if each.step.kind == "train-discriminator"
    )
    works = [(work.network.kind, work.use, work.times) for work in state.work]
    # 48 images to train on and as many fakes; 16 pairs at 8 levels; a score of each real one of both.
    assert works == [
        ("train-discriminator", "train-gradient", 96),
        ("train-discriminator", "gradient", 256),
        ("train-score", "forward", 48 + 128),
    ]
    operations = Operations(Networks())
    plain, second = (operations.per_row(Work(step, use, 1, 8)).total for use in ("train", "train-gradient"))
    assert 1.8 < second / plain < 2.2  # forward, to the input, and backward through both: 6 for 3


OTHER_SIZE = Pretrained(source="net.pt", network=SongUNet(), image_size=16, channels=1).weights()
GIVEN = dict(loss="bce+gradient", score=SCORE.last())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(loss="bce+gradient"), "score: expected the weights of the score network that is to be guided"),
        (
            dict(score=SCORE.last()),
            'score: expected loss="bce.gradient", the only loss that uses it, found "bce"',
        ),
        (dict(loss="lsif", gradient_weight=2.0), 'gradient_weight: expected loss="bce.gradient"'),
        (
            GIVEN | dict(score=OTHER_SIZE),
            "score: expected a score network for the real ones' 1 channels of 8",
        ),
        (GIVEN | dict(gradient_weight=0.0), "gradient_weight"),
    ],
)
def test_a_loss_of_the_gradient_without_its_score_network_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        TrainDiscriminator(real=REAL[:100], fake=FAKES[:100], batch_size=8, **fields)


def test_an_epoch_can_be_chosen_by_the_loss_of_the_gradient_where_there_is_one(trained):
    assert trained.step.best("held_out_gradient").which == "best:held_out_gradient"
    assert trained.step.best("held_out_bce").which == "best:held_out_bce"
    with pytest.raises(ValueError, match='by held_out_gradient: set loss="bce.gradient" and score'):
        TrainDiscriminator(real=REAL[:100], fake=FAKES[:100]).best("held_out_gradient")
