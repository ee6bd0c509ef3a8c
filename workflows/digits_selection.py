"""Which epoch of the discriminator should guide? FID by epoch on digits, beside measurements without samples.

The system is that of digits.py; both recipes can share a root (--root runs/digits). The discriminator is
trained for longer on fewer images, so that it passes its best epoch and overfits. Its sizes were chosen by
held-out loss alone; nothing was tuned on the sampling seeds.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import digits

import dgflow as dg


def workflow(
    samples: dg.options.Samples = 2_000,
    sampled_epochs: Annotated[
        Sequence[int], "epochs that guide an arm each; the discriminator is trained to the last one"
    ] = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64),
    reals: dg.options.Reals = 1_000,
    fakes: dg.options.Fakes = 2_000,
    held_out: Annotated[float, "share of real and fake images held out to measure epochs"] = 0.2,
    loss: dg.options.Loss = "bce",
    guidance_weight: dg.options.GuidanceWeight = 2.0,
    discriminator_seed: dg.options.DiscriminatorSeed = 0,
    seeds: dg.options.Seeds = digits.SEEDS,
) -> dg.CompareSelectors:
    system = digits.workflow(
        samples=samples,
        seeds=seeds,
        reals=reals,
        fakes=fakes,
        epochs=max(sampled_epochs),
        loss=loss,
        guidance_weight=guidance_weight,
        discriminator_seed=discriminator_seed,
    )
    guided: list[Any] = [part.step for part in system.arms["guided"]]  # one Generate per seed
    (guide,) = guided[0].guidance
    training = guide.discriminator.step.model_copy(update={"held_out": held_out, "gain_of": guided[0].score})

    arms = {"unguided": system.arms["unguided"]}
    for epoch in sorted(set(sampled_epochs)):
        terms = (guide.model_copy(update={"discriminator": training.epoch(epoch)}),)
        arms[f"epoch {epoch}"] = tuple(
            generate.model_copy(update={"guidance": terms})[:samples] for generate in guided
        )
    evaluation = system.model_copy(update={"arms": arms})
    return dg.CompareSelectors(by_epoch=evaluation.result(), training=training.measurements())


if __name__ == "__main__":
    dg.main(workflow)
