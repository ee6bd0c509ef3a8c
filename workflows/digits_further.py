"""Train further, or guide? One budget on digits, for the score network, a discriminator, or both.

The system is that of digits.py; both recipes can share a root (--root runs/digits). The paper's figures 13
and 25 make the comparison on CIFAR-10. In addition to the training in digits.py, every arm takes about as
many operations as the discriminator of digits.py with its fakes. The table shows the operations:

  trained further   all on the score network, starting from its weights
  guided            all on the discriminator
  in turn           half on the score network, half on a discriminator of its new samples
  weighted          half on a discriminator, half on the score network, its loss weighted by the ratio

Every training contributes its epoch with the best held-out loss. Nothing was tuned on the sampling seeds.
"""

from typing import Annotated, Any

import digits

import dgflow as dg


def workflow(
    samples: dg.options.Samples = 2_000,
    further_epochs: Annotated[
        int, "additional passes of the score network; half in arm in turn, a quarter in weighted"
    ] = 144,
    epochs: Annotated[
        int, "the discriminator's passes over the real images; half of them in the last two arms"
    ] = 24,
    learning_rate: Annotated[float, "learning rate of the score network in further training"] = 1e-3,
    divergence: dg.options.Divergence = "chi-squared",
    guidance_weight: dg.options.GuidanceWeight = 2.0,
    seeds: dg.options.Seeds = digits.SEEDS,
) -> dg.Evaluate:
    system = digits.workflow(samples=samples, epochs=epochs, guidance_weight=guidance_weight, seeds=seeds)
    guided: list[Any] = [part.step for part in system.arms["guided"]]  # one Generate per seed
    (guide,) = guided[0].guidance
    base, training = guided[0].score, guide.discriminator.step

    def further(epochs: int, **fields: Any) -> dg.TrainScore:
        # A different seed: the base's would repeat its batches and noise.
        start = {"start": base, "seed": base.step.seed + 1, "learning_rate": learning_rate}
        start |= {"epochs": max(1, epochs)}
        return base.step.model_copy(update=start | fields)

    def arm(score: Any, *guidance: Any) -> tuple[Any, ...]:
        fields = {"score": score, "guidance": guidance}
        return tuple(each.model_copy(update=fields)[:samples] for each in guided)

    halfway = further(further_epochs // 2).best()
    half = training.model_copy(update={"epochs": max(1, epochs // 2)})
    fake = training.fake.step.model_copy(update={"score": halfway})[: training.fake.stop]
    next_guide = guide.model_copy(update={"discriminator": half.model_copy(update={"fake": fake}).best()})
    weighting = dg.RatioWeighting(
        discriminator=half.best(), divergence=divergence, tau_min=guide.tau_min, tau_max=guide.tau_max
    )

    arms = {
        "unguided": system.arms["unguided"],
        "trained further": arm(further(further_epochs).best()),
        "guided": system.arms["guided"],
        "in turn": arm(halfway, next_guide),
        "weighted": arm(further(further_epochs // 4, weighting=weighting).best()),
    }
    return system.model_copy(update={"arms": arms, "beside": (dg.Cost(arms=arms).result(),)})


if __name__ == "__main__":
    dg.main(workflow)
