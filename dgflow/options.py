"""Options shared by recipes, as annotated types: `samples: dg.options.Samples = 50_000` defines `--samples`.

`epochs: dg.options.Epochs | None = None` defines an option whose default is the published value.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple


class Former(NamedTuple):
    """A former name of an option, still accepted on the command line."""

    name: str


Samples = Annotated[int, "images per arm and sampling seed"]
Seed = Annotated[int, "sampling seed of the measured samples"]
Seeds = Annotated[Sequence[int], "sampling seeds; each is measured", Former("seed")]
SelectionSeeds = Annotated[Sequence[int], "sampling seeds on which settings are chosen"]
Methods = Annotated[Sequence[str], "methods to compare with plain sampling; by default all"]
Precision = Annotated[
    Literal["float32", "tf32", "bfloat16", "float16"], "precision of the networks while sampling"
]
Likelihood = Annotated[int, "real images whose likelihood is measured (bits per dimension); 0: none"]
Mechanism = Annotated[
    int, "real images, and samples per arm, for the figures on how guidance works; 0: no such figures"
]
SkipBroken = Annotated[int, "maximum number of broken images to skip"]
KeepPixels = Annotated[
    bool, "store the prepared images; otherwise the source is encoded directly, to the same latents"
]
DropAlpha = Annotated[bool, "drop the alpha channel of transparent images, which are refused otherwise"]

# Sampler and guidance of the measured samples; the fakes do not change.
Steps = Annotated[int, "sampler steps; Heun's sampler evaluates the score network 2 * steps - 1 times"]
Respacing = Annotated[int, "sampler steps, each with one evaluation of the score network"]
Tolerance = Annotated[float, "tolerance of the adaptive sampler; determines its number of evaluations"]
GuidanceWeight = Annotated[float, "weight of the discriminator's gradient, in the sampler's first order"]
SecondOrderWeight = Annotated[float, "weight of the discriminator's gradient in Heun's second order"]
TauMin = Annotated[float, "lowest time (linear-VP, 0 to 1) at which the discriminator guides"]
TauMax = Annotated[float, "highest time at which the discriminator guides; 1: no upper end"]

# The same options, whose values can also be chosen by Gain (theorem 2 of the paper) on held-out real images.
GuidanceWeightOrGain = Annotated[
    float | Literal["gain"], "weight of the discriminator's gradient; gain: the weight with the largest Gain"
]
SecondOrderWeightOrGain = Annotated[
    float | Literal["gain"],
    "weight of the discriminator's gradient in Heun's second order; gain if guidance_weight is",
]
TauMinOrGain = Annotated[
    float | Literal["gain"],
    "lowest time (linear-VP, 0 to 1) at which the discriminator guides; gain: lower end of positive Gain",
]
TauMaxOrGain = Annotated[
    float | Literal["gain"],
    "highest time at which the discriminator guides; 1: no upper end; gain: upper end of positive Gain",
]

AfterTimestep = Annotated[int, "the discriminator guides at timesteps (of 0 to 999) greater than this"]

# The training of the discriminator.
Reals = Annotated[int, "real images to train the discriminator on"]
Fakes = Annotated[int, "fake samples to train the discriminator on"]
Epochs = Annotated[int, "the discriminator's passes over the real images"]
Epoch = Annotated[int | None, "epoch of the discriminator that guides, instead of the last or best"]
BatchSize = Annotated[int, "batch size of the discriminator's training, half real and half fake"]
Times = Annotated[
    Literal["importance", "log-uniform"],
    "distribution of training times: published, or uniform in log sigma within the guided range",
]
Loss = Annotated[Literal["bce", "lsif", "ukl"], "loss of the discriminator"]
LossOrGradient = Annotated[
    Literal["bce", "lsif", "ukl", "bce+gradient"],
    "loss of the discriminator; bce+gradient: also match its gradient to the score's error",
]
FeatureUse = Literal["frozen", "fine-tuned", "none"]
Features = Annotated[
    FeatureUse, "features of the discriminator: a classifier, frozen or fine-tuned, or none (from scratch)"
]
Process = Annotated[
    Literal["linear-vp", "edm"],
    "diffusion of the discriminator's input; edm: as in EDM's networks, needs features none",
]
Divergence = Annotated[
    Literal["chi-squared", "hellinger", "jensen-shannon", "reverse-kl"],
    "divergence minimised by the score network's loss, weighted by a discriminator's ratio",
]
HeldOut = Annotated[float, "share of real and fake samples held out to measure every epoch; published: 0"]
Best = Annotated[bool, "guide with the epoch of the lowest held-out loss; published: the last"]
DiscriminatorSeed = Annotated[int, "seed of the discriminator's initial weights and batches"]
