"""Options that recipes share, as annotated types: `samples: dg.options.Samples = 50_000` is `--samples`."""

from typing import Annotated, Literal

Samples = Annotated[int, "images per arm and sampling seed"]
Seed = Annotated[int, "of the samples that are measured"]
Precision = Annotated[Literal["float32", "tf32", "bfloat16"], "of the networks while sampling"]
SkipBroken = Annotated[int, "broken images that may be left out"]
DropAlpha = Annotated[bool, "leave out the alpha channel of transparent images, which are refused otherwise"]

Fakes = Annotated[int, "fake samples to train the discriminator on"]
Epochs = Annotated[int, "the discriminator's passes over the real images"]
HeldOut = Annotated[float, "share of real and fake samples held out to measure every epoch; published is 0"]
Best = Annotated[bool, "guide with the epoch of the smallest held-out loss; published is the last"]
