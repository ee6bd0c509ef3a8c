"""CIFAR-10, EDM: train further, or guide? One budget, for the score network, a discriminator, or both.

Kim et al. 2023 train EDM's published network further, which overfits, and compare it with a discriminator at
the same cost (figures 13 and 25). Published FID: EDM 2.03, EDM-G++ 1.77 (random seeds), to be reached; not
measured here. Each arm takes about as many operations as the discriminator of `cifar10_edm.py` with its
fakes:

  trained further   all on the score network, starting from EDM's weights
  EDM-G++           all on the discriminator
  in turn           a third on the score network, then new fakes and a discriminator trained half as long
  weighted          a discriminator trained half as long, then the score network, its loss weighted by it

The table shows the operations; those of published networks are not counted. The score network is trained with
EDM's loss, noise levels, batches of 512 and half-life of 500,000 images, but without EDM's augmentation.

Weights: EDM (CC BY-NC-SA 4.0), Discriminator Guidance's classifier (no licence stated), as in
`cifar10_edm.py`, whose `--classifier-data` trains the latter. Data: CIFAR-10.
Budget of the paper: 1 h for fakes, 10 min for the discriminator, one V100 or A100. Yours: `plan --device`.
"""

from typing import Annotated, Any

import cifar10_edm

import dgflow as dg


def workflow(
    data: Annotated[
        str, "the training images: CIFAR-10's archive, a folder of classes, Parquet files"
    ] = "data/cifar-10-python.tar.gz",
    classifier_data: Annotated[
        str | None, "ImageNet, to train the discriminator's frozen features at 32 pixels here"
    ] = None,
    conditional: Annotated[bool, "the class-conditional system, with the boost"] = False,
    samples: dg.options.Samples = 50_000,
    further_epochs: Annotated[
        int, "additional passes of the score network; a third of them in the last two arms"
    ] = 20,
    epochs: Annotated[
        int, "the discriminator's passes over the real images; half of them in the last two arms"
    ] = 60,
    learning_rate: Annotated[float, "learning rate of the score network in further training"] = 1e-4,
    divergence: dg.options.Divergence = "chi-squared",
    held_out: dg.options.HeldOut = 0.04,
    best: Annotated[
        bool, "take the epoch with the lowest held-out loss of every training, not the last"
    ] = False,
    seeds: dg.options.Seeds = (0,),
) -> dg.Evaluate:
    system = cifar10_edm.workflow(
        conditional=conditional,
        data=data,
        classifier_data=classifier_data,
        samples=samples,
        epochs=epochs,
        held_out=held_out,
        best=best,
        seeds=seeds,
    )
    guided: list[Any] = [part.step for part in system.arms["EDM-G++"]]  # one Generate per seed
    (guide,) = guided[0].guidance
    edm, training = guided[0].score, guide.discriminator.step

    def further(epochs: int, **fields: Any) -> Any:
        step = dg.TrainScore(
            real=training.real,
            network=edm.step.network,
            conditional=conditional,
            start=edm,
            epochs=max(1, epochs),
            batch_size=512,
            learning_rate=learning_rate,
            held_out=held_out,
            **fields,
        )
        return step.chosen(best=best)

    def arm(score: Any, *guidance: Any) -> tuple[Any, ...]:
        fields = {"score": score, "guidance": guidance}
        return tuple(each.model_copy(update=fields)[:samples] for each in guided)

    halfway = further(further_epochs // 3)
    half = training.model_copy(update={"epochs": max(1, epochs // 2)})
    fake = training.fake.step.model_copy(update={"score": halfway})[: training.fake.stop]
    next_guide = guide.model_copy(
        update={"discriminator": half.model_copy(update={"fake": fake}).chosen(best=best)}
    )
    weighting = dg.RatioWeighting(
        discriminator=half.chosen(best=best),
        divergence=divergence,
        tau_min=guide.tau_min,
        tau_max=guide.tau_max,
    )

    arms = {
        "EDM": system.arms["EDM"],
        "trained further": arm(further(further_epochs)),
        "EDM-G++": system.arms["EDM-G++"],
        "in turn": arm(halfway, next_guide),
        "weighted": arm(further(further_epochs // 3, weighting=weighting)),
    }
    return system.model_copy(update={"arms": arms, "beside": (dg.Cost(arms=arms).result(),)})


if __name__ == "__main__":
    dg.main(workflow)
