"""The refinement workbench in the plane: which distribution does each method converge to?

The system is that of plane.py; both recipes can share a root (--root runs/plane). The model has an exact
score and a wrong distribution; that of the data is known. "exact" and the selections use the exact log-ratio,
so that the remaining error is the method's own; arms named "learned" use a trained discriminator.
docs/plane.md has the measurements.
"""

from functools import partial
from typing import Annotated, Any, cast

import plane

import dgflow as dg

BLURRED = dg.GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(1.0, 1.0), weights=(0.6, 0.4))
FARTHER = dg.GaussianMixture(means=((-0.9, 1.2), (2.1, -1.8)), stds=(0.7, 0.7), weights=(0.7, 0.3))


def workflow(
    samples: Annotated[int, "points per arm and sampling seed"] = 2_000,
    seeds: dg.options.Seeds = plane.SEEDS,
    steps: dg.options.Steps = 24,
    threshold_points: Annotated[int, "points to measure the thresholds of rejection on"] = 2_000,
) -> dg.CompareLaws:
    system = partial(plane.workflow, samples=samples, seeds=seeds, steps=steps)
    arms = system().arms | {"bce+gradient": system(loss="bce+gradient").arms["bce+gradient"]}
    model, guided, by_bce = (cast(Any, arms[name][0].step) for name in ("unguided", "exact", "bce"))
    exact, learned = guided.guidance[0].discriminator, by_bce.guidance[0].discriminator.step
    clean = dg.TrainDiscriminator(
        real=learned.real,
        fake=learned.fake,
        network=learned.network,
        noise="none",
        epochs=6,
        batch_size=learned.batch_size,
        learning_rate=learned.learning_rate,
    )
    again = dg.RestartInterval(points=6, repeats=4, sigma_min=0.3, sigma_max=2.0)
    restart = dg.Restart(**dict(model.sampler), restarts=(again,))

    def refined(**fields: Any) -> tuple[Any, ...]:
        return tuple(model.model_copy(update=fields | {"seed": seed})[:samples] for seed in seeds)

    def away_from(mixture: dg.GaussianMixture, **settings: Any) -> tuple[Any, ...]:
        network = dg.ClosedForm(network=dg.MixtureScore(mixture=mixture)).weights()
        return refined(guidance=(dg.NetworkGuidance(network=network, **settings),))

    def by_rejection(quantile: float, **settings: Any) -> tuple[Any, ...]:
        drawn = model.model_copy(update={"seed": 2})[:threshold_points]
        measured = dg.RejectionThresholds(samples=drawn, discriminator=exact, quantile=quantile)
        thresholds = measured.result()
        return refined(selection=dg.Rejection(discriminator=exact, thresholds=thresholds, **settings))

    arms |= {
        "away from a blurred model": away_from(BLURRED, weight=2.0),
        "the same in an interval": away_from(BLURRED, weight=2.0, sigma_min=0.2, sigma_max=1.6),
        "away from a model twice as wrong": away_from(FARTHER, weight=2.0),
        "epsilon scaling": refined(guidance=(dg.EpsilonScaling(factor=1.01),)),
        "Restart": refined(sampler=restart),
        "Restart, exact": refined(sampler=restart, guidance=guided.guidance),
        "DiffRS": by_rejection(quantile=0.75),
        "rejection of finished points": by_rejection(quantile=1.0, at="end"),
        "4 particles": refined(selection=dg.Particles(discriminator=exact, count=4)),
        "16 particles": refined(selection=dg.Particles(discriminator=exact, count=16)),
        "best of 4": refined(selection=dg.BestOf(discriminator=exact, count=4)),
        "best of 4, learned": refined(selection=dg.BestOf(discriminator=clean.best(), count=4)),
    }
    return dg.CompareLaws(data=plane.DATA, arms=arms)


if __name__ == "__main__":
    dg.main(workflow)
