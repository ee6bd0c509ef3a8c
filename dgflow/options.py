"""Options that recipes share, as annotated types: `samples: dg.options.Samples = 50_000` is `--samples`.

`epochs: dg.options.Epochs | None = None` is an option that is as published unless it is given.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple


class Former(NamedTuple):
    """The name that an option had before, which its command line still takes."""

    name: str


Samples = Annotated[int, "images per arm and sampling seed"]
Seed = Annotated[int, "of the samples that are measured"]
Seeds = Annotated[Sequence[int], "sampling seeds, each of which is measured", Former("seed")]
SelectionSeeds = Annotated[Sequence[int], "sampling seeds on which settings are chosen"]
Methods = Annotated[Sequence[str], "to compare with plain sampling; by default all"]
Precision = Annotated[Literal["float32", "tf32", "bfloat16"], "of the networks while sampling"]
Likelihood = Annotated[int, "real images whose bits per dimension stand beside the table; 0: none"]
Mechanism = Annotated[
    int, "real images, and samples of each arm, for the figures of mechanism beside the table; 0: none"
]
SkipBroken = Annotated[int, "broken images that may be left out"]
KeepPixels = Annotated[
    bool, "store the prepared images; without, the source is read and encoded at once, to the same latents"
]
DropAlpha = Annotated[bool, "leave out the alpha channel of transparent images, which are refused otherwise"]

# The sampler and the guidance of the samples that are measured; the fakes are made as before.
Steps = Annotated[int, "of the sampler; Heun's evaluates the score network 2 * steps - 1 times"]
Respacing = Annotated[int, "steps of the sampler: its evaluations of the score network"]
Tolerance = Annotated[float, "of the adaptive sampler, which sets its number of evaluations"]
GuidanceWeight = Annotated[float, "of the discriminator's gradient, in the sampler's first order"]
SecondOrderWeight = Annotated[float, "of the discriminator's gradient in Heun's second order"]
TauMin = Annotated[float, "lowest time (linear-VP, 0 to 1) at which the discriminator guides"]
TauMax = Annotated[float, "highest time at which the discriminator guides; 1: no upper end"]

# The same, or chosen by Gain (theorem 2 of the paper) on real images that are held out of the training.
GuidanceWeightOrGain = Annotated[
    float | Literal["gain"], "of the discriminator's gradient; gain: the weight at which Gain is largest"
]
SecondOrderWeightOrGain = Annotated[
    float | Literal["gain"],
    "of the discriminator's gradient in Heun's second order; gain where guidance_weight is",
]
TauMinOrGain = Annotated[
    float | Literal["gain"],
    "lowest time (linear-VP, 0 to 1) at which the discriminator guides; gain: from where on Gain is above 0",
]
TauMaxOrGain = Annotated[
    float | Literal["gain"],
    "highest time at which the discriminator guides; 1: no upper end; gain: up to where Gain is above 0",
]

AfterTimestep = Annotated[int, "the discriminator guides at timesteps (of 0 to 999) greater than this"]

# The training of the discriminator.
Reals = Annotated[int, "real images to train the discriminator on"]
Fakes = Annotated[int, "fake samples to train the discriminator on"]
Epochs = Annotated[int, "the discriminator's passes over the real images"]
Epoch = Annotated[int | None, "epoch of the discriminator that guides, in place of the last or best"]
BatchSize = Annotated[int, "of the discriminator's training, half real and half fake"]
Times = Annotated[
    Literal["importance", "log-uniform"],
    "distribution of training times: as published, or log sigma uniform where guidance acts",
]
Loss = Annotated[Literal["bce", "lsif", "ukl"], "of the discriminator"]
LossOrGradient = Annotated[
    Literal["bce", "lsif", "ukl", "bce+gradient"],
    "of the discriminator; bce+gradient: its gradient is matched to the score's error, too",
]
FeatureUse = Literal["frozen", "fine-tuned", "none"]
Features = Annotated[
    FeatureUse, "under the discriminator: a classifier, frozen or trained on, or none (from scratch)"
]
Process = Annotated[
    Literal["linear-vp", "edm"],
    "the diffusion that the discriminator is told of; edm: as EDM's networks are, needs features none",
]
Divergence = Annotated[
    Literal["chi-squared", "hellinger", "jensen-shannon", "reverse-kl"],
    "that the score network's loss lowers where a discriminator's ratio weights it",
]
HeldOut = Annotated[float, "share of real and fake samples held out to measure every epoch; published is 0"]
Best = Annotated[bool, "guide with the epoch of the smallest held-out loss; published is the last"]
DiscriminatorSeed = Annotated[int, "of the discriminator's fresh weights and batches"]
