"""CIFAR-10, EDM: methods to refine the published network, compared at equal cost, each with a few settings.

The system is that of `cifar10_edm.py`, with its discriminator; both recipes can share a root. --methods
restricts the arms to some methods. Published FID, to be reached; not measured here (35 evaluations unless
stated):

  plain                EDM 1.97 (the lowest of three; 2.03 with random seeds), 1.79 with classes
  DG                   2.03 -> 1.77; with classes 1.82 -> 1.64
  gradient matching    BoostDM; no figure at hand
  SIMS                 away from a copy that was trained on 100,000 of its own samples
  Neon                 1.98 -> 1.38; with classes 1.78 -> 1.38; 6,000 own samples, 6,000,000 images
  Restart              43 evaluations and more; no figure at hand
  DiffRS               1.59 at 64 evaluations, quantile 0.75 of 1,000 samples, budget 105
  particles            no figure at hand
  best of n            no figure at hand
  epsilon scaling      1.0048 for 13 steps of Euler's method, 1.0006 for these with classes

Settings are chosen by FID on the selection's seeds and reported on other seeds. Neon's copy is trained
without EDM's augmentation, and with a constant learning rate instead of the first part of a ramp.

Weights: EDM (CC BY-NC-SA 4.0), Discriminator Guidance's classifier (no licence stated), as in
`cifar10_edm.py`, whose `--classifier-data` trains the latter. Data: CIFAR-10.
Budget of the papers: no single one is stated. Yours: `plan --device`.
"""

from functools import partial
from typing import Annotated, Any

import cifar10_edm

import dgflow as dg

Fields = dict[str, Any]  # fields of Generate


def workflow(
    data: Annotated[
        str, "the training images: CIFAR-10's archive, a folder of classes, Parquet files"
    ] = "data/cifar-10-python.tar.gz",
    classifier_data: Annotated[
        str | None, "ImageNet, to train the discriminator's frozen features at 32 pixels here"
    ] = None,
    conditional: Annotated[bool, "the class-conditional system"] = False,
    methods: dg.options.Methods = (),
    samples: dg.options.Samples = 50_000,
    selection_seeds: dg.options.SelectionSeeds = (100_000,),
    seeds: dg.options.Seeds = (0,),
    own_samples: Annotated[int, "samples of EDM that a copy of it is trained on"] = 6_000,
    own_epochs: Annotated[int, "passes of that copy over own_samples"] = 1_000,
    held_out: dg.options.HeldOut = 0.04,
    best: dg.options.Best = False,
) -> dg.CompareRefinements:
    system = cifar10_edm.workflow(
        conditional=conditional,
        data=data,
        classifier_data=classifier_data,
        samples=samples,
        seeds=seeds,
        held_out=held_out,
        best=best,
    )
    plain: Any = system.arms["EDM"][0].step
    guided: Any = system.arms["EDM-G++"][0].step
    (guide,) = guided.guidance
    edm, training = plain.score, guide.discriminator.step

    matched = training.model_copy(update={"loss": "bce+gradient", "score": edm})
    tuned = dg.TrainScore(
        start=edm,
        real=training.fake.step[:own_samples],
        network=edm.step.network,
        conditional=conditional,
        epochs=own_epochs,
        batch_size=512,
        learning_rate=2e-5,
    ).last()

    def guided_by(discriminator: Any, weight: float) -> Fields:
        return {"guidance": (guide.model_copy(update={"discriminator": discriminator, "weight": weight}),)}

    def away_from(network: Any, weight: float) -> Fields:
        return {"guidance": (dg.NetworkGuidance(network=network, weight=weight),)}

    def heun(steps: int) -> Fields:
        return {"sampler": plain.sampler.model_copy(update={"steps": steps})}

    def merged(weight: float) -> Fields:
        return {"score": dg.Merge(base=edm, tuned=tuned, weight=weight).weights()}

    def restarting(repeats: int) -> Fields:
        interval = dg.RestartInterval(points=3, repeats=repeats, sigma_min=0.14, sigma_max=0.3)
        return {"sampler": dg.Restart(**dict(plain.sampler), restarts=(interval,))}

    def rejected(quantile: float) -> Fields:
        drawn = plain.model_copy(update={"seed": training.fake.step.seed})
        pilot = drawn[training.fake.stop : training.fake.stop + 1_000]  # after those of the training
        both = {"discriminator": guide.discriminator}
        thresholds = dg.RejectionThresholds(samples=pilot, quantile=quantile, **both)
        return {"selection": dg.Rejection(thresholds=thresholds.result(), budget=105, **both)}

    def resampled(count: int) -> Fields:
        return {"selection": dg.Particles(discriminator=guide.discriminator, count=count)}

    def best_of(count: int) -> Fields:
        return {"selection": dg.BestOf(discriminator=guide.discriminator, count=count)}

    def scaled(factor: float) -> Fields:
        return {"guidance": (dg.EpsilonScaling(factor=factor),)}

    return dg.CompareRefinements.of(
        lambda **fields: plain.model_copy(update=fields),
        {
            "plain": dg.swept("steps", (12, 18, 35), heun),
            "DG": dg.swept("weight", (1, 2, 3), partial(guided_by, guide.discriminator)),
            "gradient matching": dg.swept("weight", (1, 2, 3), partial(guided_by, matched.chosen(best=best))),
            "SIMS": dg.swept("weight", (1.5, 2, 3), partial(away_from, tuned)),
            "Neon": dg.swept("weight", (0.5, 1, 1.5), merged),
            "Restart": dg.swept("repeats", (2, 5, 10), restarting),
            "DiffRS": dg.swept("quantile", (0.5, 0.75, 0.9), rejected),
            "particles": dg.swept("count", (2, 4), resampled),
            "best of n": dg.swept("n", (2, 4), best_of),
            "epsilon scaling": dg.swept("factor", (1.0006, 1.0024, 1.0048), scaled),
        },
        partial(dg.Evaluate, against=dg.reference("fid-cifar10-32x32")),
        samples=samples,
        select_on=selection_seeds,
        report_on=seeds,
        only=methods or None,
    )


if __name__ == "__main__":
    dg.main(workflow)
