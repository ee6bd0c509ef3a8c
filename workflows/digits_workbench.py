"""Methods to refine one frozen model of digits, compared at equal cost, each with a few settings.

The system is that of digits.py; in its root (--root runs/digits) nothing of it is made again. Every method
has a few values of its main parameter. --methods restricts the arms to some methods:

  plain                no refinement; more or fewer steps of the sampler
  DG                   Discriminator Guidance, with the discriminator of digits.py
  gradient matching    the same, with the discriminator's gradient matched to the score's error
  autoguidance         away from an early epoch of the score network
  guidance interval    autoguidance, between noise levels 1 and 20 only
  SIMS                 away from a copy of the score network that was trained on its own samples
  Neon                 weights beyond the score network's, away from that copy's
  epsilon scaling      the predicted noise divided by a constant
  Restart              from noise level 0.33 up to 1.2 and down again, several times
  DG with Restart      both
  DiffRS               steps rejected by the log-ratio, with thresholds at its quantile over a pilot run
  clean rejection      finished samples rejected by a discriminator of clean images
  particles            several per sample, resampled along the path by changes of the log-ratio
  best of n            of n samples, the one with the largest log-ratio
  clean best of n      the same, by a discriminator of clean images

Settings are chosen by FID on SELECTION_SEEDS and reported on SEEDS. docs/workbench.md has the measurements.
"""

from functools import partial
from typing import Annotated, Any

import digits

import dgflow as dg

SELECTION_SEEDS = (11, 12)
Fields = dict[str, Any]  # fields of Generate


def workflow(
    methods: dg.options.Methods = (),
    samples: dg.options.Samples = 1_000,
    selection_seeds: dg.options.SelectionSeeds = SELECTION_SEEDS,
    seeds: dg.options.Seeds = digits.SEEDS,
    early_epoch: Annotated[int, "epoch of the score network that autoguidance guides away from"] = 5,
    own_epochs: Annotated[int, "passes of the score network's copy over its own samples"] = 4,
    matching_epochs: Annotated[int, "passes of the discriminator with gradient matching"] = 8,
    clean_epochs: Annotated[int, "passes of the discriminator of clean images"] = 12,
) -> dg.CompareRefinements:
    system = digits.workflow(samples=samples, seeds=seeds)
    plain: Any = system.arms["unguided"][0].step
    guided: Any = system.arms["guided"][0].step
    (guide,) = guided.guidance
    base, training = plain.score, guide.discriminator.step

    matched = training.model_copy(update={"loss": "bce+gradient", "score": base, "epochs": matching_epochs})
    own = {"start": base, "real": training.fake.step[: base.step.real.rows], "epochs": own_epochs}
    own |= {"seed": base.step.seed + 1, "learning_rate": 1e-3}  # batches that differ from the base's
    tuned = base.step.model_copy(update=own).last()

    # A discriminator of clean images has no noise levels and no window.
    clean = dg.TrainDiscriminator(
        real=training.real,
        fake=training.fake,
        network=training.network,
        noise="none",
        epochs=clean_epochs,
        batch_size=training.batch_size,
    ).best()

    def guided_by(discriminator: Any, weight: float) -> Fields:
        both = {"weight": weight, "second_order_weight": weight}
        return {"guidance": (guide.model_copy(update={"discriminator": discriminator, **both}),)}

    def away_from(network: Any, weight: float, **window: Any) -> Fields:
        return {"guidance": (dg.NetworkGuidance(network=network, weight=weight, **window),)}

    def heun(steps: int) -> Fields:
        return {"sampler": plain.sampler.model_copy(update={"steps": steps})}

    def merged(weight: float) -> Fields:
        return {"score": dg.Merge(base=base, tuned=tuned, weight=weight).weights()}

    def scaled(factor: float) -> Fields:
        return {"guidance": (dg.EpsilonScaling(factor=factor),)}

    def restarting(repeats: int) -> Fields:
        interval = dg.RestartInterval(points=3, repeats=repeats, sigma_min=0.33, sigma_max=1.2)
        return {"sampler": dg.Restart(**dict(plain.sampler), restarts=(interval,))}

    def rejected(discriminator: Any, quantile: float, **settings: Any) -> Fields:
        drawn = plain.model_copy(update={"seed": training.fake.step.seed})
        pilot = drawn[training.fake.stop : training.fake.stop + 500]  # after those of the training
        thresholds = dg.RejectionThresholds(samples=pilot, discriminator=discriminator, quantile=quantile)
        settings |= {"thresholds": thresholds.result(), "budget": 3 * plain.sampler.nfe}
        return {"selection": dg.Rejection(discriminator=discriminator, **settings)}

    def resampled(count: int) -> Fields:
        return {"selection": dg.Particles(discriminator=guide.discriminator, count=count)}

    def best_of(discriminator: Any, count: int) -> Fields:
        return {"selection": dg.BestOf(discriminator=discriminator, count=count)}

    early = base.step.epoch(early_epoch)
    interval = partial(away_from, early, sigma_min=1.0, sigma_max=20.0)
    return dg.CompareRefinements.of(
        lambda **fields: plain.model_copy(update=fields),
        {
            "plain": dg.swept("steps", (6, 8, 12, 18), heun),
            "DG": dg.swept("weight", (1, 2, 3), partial(guided_by, guide.discriminator)),
            "gradient matching": dg.swept("weight", (1, 2, 3), partial(guided_by, matched.best())),
            "autoguidance": dg.swept("weight", (1.5, 2, 3), partial(away_from, early)),
            "guidance interval": dg.swept("weight", (1.5, 2, 3), interval),
            "SIMS": dg.swept("weight", (2, 4, 6), partial(away_from, tuned)),
            "Neon": dg.swept("weight", (1, 2, 4), merged),
            "epsilon scaling": dg.swept("factor", (0.95, 0.98, 1.005), scaled),
            "Restart": dg.swept("repeats", (1, 2, 4), restarting),
            "DG with Restart": dg.swept(
                "weight", (1, 2), lambda w: restarting(2) | guided_by(guide.discriminator, w)
            ),
            "DiffRS": dg.swept("quantile", (0.5, 0.75, 0.9), partial(rejected, guide.discriminator)),
            "clean rejection": dg.swept("quantile", (0.75,), partial(rejected, clean, at="end")),
            "particles": dg.swept("count", (2, 4), resampled),
            "best of n": dg.swept("n", (2, 4), partial(best_of, guide.discriminator)),
            "clean best of n": dg.swept("n", (2, 4), partial(best_of, clean)),
        },
        partial(dg.Evaluate, reference=system.reference, features=system.features, floor=system.floor),
        samples=samples,
        select_on=selection_seeds,
        report_on=seeds,
        only=methods or None,
    )


if __name__ == "__main__":
    dg.main(workflow)
