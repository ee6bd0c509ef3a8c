"""CIFAR-10, EDM under an ensemble of discriminators: the reproduction study of Kleger & Sartor, done right.

FID in the study (EDM without classes): 2.094 without guidance, 1.880 with the published discriminator, 2.084
with one of the study's own, 14.348 with an ensemble of six; to be reached or explained, not measured here.
The study's ensemble used the mean of log-ratios as a probability (`benchmarks/study_bug.py`), and its members
were one network, trained further again and again. The authors say that each member should have been measured,
as is done here. The arms are: unguided, D0 to D5 one by one, and all of them together, by the mean of
log-ratios and of probabilities.

As in the study, 40,000 images train and 10,000 measure. Because the study's table of members is not at hand,
some choices are our own. Members are independent: each has the weights, batches and noise of its own seed,
and with `--bagged` its own resample. The epoch with the best held-out loss guides, and sampling is as
published. `--steps 35 --boosted` are the study's settings. The study's warm restarts of one network are not
implemented.

Weights, data and licences: as in `cifar10_edm.py`, whose `--classifier-data` trains the features. All members
share the features, so that six members cost little more than one (`benchmarks/ensemble.py`).
"""

from functools import partial
from typing import Annotated, Any

import cifar10_edm

import dgflow as dg


def workflow(
    data: Annotated[
        str, "the training images: CIFAR-10's archive, a folder of classes, Parquet files"
    ] = "data/cifar-10-python.tar.gz",
    classifier_data: Annotated[
        str | None, "ImageNet, to train the discriminators' frozen features at 32 pixels here"
    ] = None,
    samples: dg.options.Samples = 50_000,
    members: Annotated[int, "number of discriminators: D0, D1, ..."] = 6,
    bagged: Annotated[bool, "train each member on a resample of its own, drawn with replacement"] = False,
    reals: dg.options.Reals = 50_000,
    fakes: dg.options.Fakes = 50_000,
    epochs: dg.options.Epochs = 60,
    loss: dg.options.Loss = "bce",
    held_out: Annotated[float, "share of real and fake samples held out to measure epochs"] = 0.2,
    guidance_weight: dg.options.GuidanceWeight | None = None,
    second_order_weight: dg.options.SecondOrderWeight = 0.0,
    boosted: Annotated[bool, "boost samples that look fake, as in the study; the paper does not"] = False,
    steps: dg.options.Steps = 18,
    seeds: dg.options.Seeds = (0,),
) -> dg.Evaluate:
    system = cifar10_edm.workflow(
        data=data,
        classifier_data=classifier_data,
        samples=samples,
        reals=reals,
        fakes=fakes,
        epochs=epochs,
        loss=loss,
        held_out=held_out,
        steps=steps,
        seeds=seeds,
    )
    guided: Any = system.arms["EDM-G++"][0].step
    first = guided.guidance[0].discriminator.step
    numbers = range(members)
    trainings = [first.model_copy(update={"seed": n, "bootstrap": n if bagged else None}) for n in numbers]
    all_members = tuple(training.best() for training in trainings)

    gpp = partial(
        dg.edm_gpp,
        "cifar10-uncond",
        weight=guidance_weight,
        second_order_weight=second_order_weight,
        boost=dg.Boost() if boosted else None,
    )
    guidance = {f"D{number}": gpp(member) for number, member in enumerate(all_members)}
    guidance |= {
        f"EDM-G++, {combine}": gpp(all_members, combine=combine) for combine in ("logits", "probabilities")
    }
    arms = {"EDM": system.arms["EDM"]}
    for name, terms in guidance.items():
        unguided = (part.step for part in system.arms["EDM"])
        arms[name] = tuple(each.model_copy(update={"guidance": terms})[:samples] for each in unguided)
    return system.model_copy(update={"arms": arms})


if __name__ == "__main__":
    dg.main(workflow)
