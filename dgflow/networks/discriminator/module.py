"""The discriminator: the log-ratio of real to generated density at a noisy sample, as a logit (real = 1, fake
= 0), differentiable in the sample through the frozen features. The state dict of its trained part, `head`, is
the published `discriminator_N.pt`.
"""

from __future__ import annotations

from torch import Tensor, nn

from dgflow.diffusion.times import per_sample
from dgflow.networks.adm.encoder import ADMEncoderModule
from dgflow.networks.times import ProcessName


class DiscriminatorModule(nn.Module):
    """`head` on the sample itself, or on the features of a classifier of noisy images (Kim et al. 2023,
    section 4.2 and table 8), which are frozen or fine-tuned with it.

    Args:
        features: extractor whose middle block's output the head reads; None if the head reads the sample. The
            extractor's own head (`out`) is unused and stays frozen.
        head: a network of `HeadSpec.head`, such as an encoder with `out_channels=1`, conditional or not.
        fine_tune: train the parameters of the features too.
        process: "edm" passes x = x0 + sigma z and log(sigma) / 4, the noise condition of Karras et al. 2022,
            to the head. The module itself receives y = x / sqrt(1 + sigma^2) as always, with sigma as the
            time, and rescales y.

    Raises:
        ValueError: the head has more than one output, the extractor needs labels, or their sizes do not
            match.
    """

    def __init__(
        self,
        features: ADMEncoderModule | None,
        head: nn.Module,
        *,
        fine_tune: bool = False,
        process: ProcessName = "linear-vp",
    ) -> None:
        super().__init__()
        if isinstance(head, ADMEncoderModule):
            _check_head(features, head)
        if features is not None:
            if features.num_classes is not None:
                raise ValueError(
                    "the feature extractor must be unconditional (num_classes=None): labels go to the head"
                )
            features.requires_grad_(fine_tune)
            features.out.requires_grad_(False)
        self.features, self.head, self.process = features, head, process

    def forward(self, x_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logit [B] = log p_real(x | t) - log p_fake(x | t).

        Args:
            x_BCHW: noisy samples in the variance-preserving scaling.
            t_B: times [B] or [1] in the networks' unit, shared by extractor and head; noise levels sigma if
                `process` is "edm".
            class_labels: int64 [B] or one-hot [B, K]. An unconditional head ignores labels, so that it can
                guide a conditional sampler; a conditional head requires them (ValueError).
        """
        if self.process == "edm":
            x_BCHW, t_B = x_BCHW * per_sample((1.0 + t_B.square()).sqrt(), x_BCHW), t_B.log() / 4
        if self.features is not None:
            x_BCHW = self.features.features(x_BCHW, t_B)
        return self.on_features(x_BCHW, t_B, class_labels)

    def on_features(self, features_BCHW: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Logits as in `forward`, from the head's input: the output of `features` for the samples."""
        logits = self.head(features_BCHW, t_B, class_labels)
        if logits.shape[1:] != (1,):
            raise ValueError(
                f"expected one logit per sample from the head, [B, 1], found {list(logits.shape)}"
            )
        return logits.squeeze(1)


def _check_head(features: ADMEncoderModule | None, head: ADMEncoderModule) -> None:
    if head.out_channels != 1:
        raise ValueError(
            f"the head must have one output, the log-ratio, found out_channels={head.out_channels}"
        )
    if features is None:
        return
    given, wanted = (features.feature_channels, features.feature_size), (head.in_channels, head.image_size)
    if given != wanted:
        raise ValueError(
            f"expected a head for the extractor's {given[0]} channels of {given[1]} x {given[1]} pixels, "
            f"found one for {wanted[0]} of {wanted[1]} x {wanted[1]}: build the head with "
            f"in_channels={given[0]} and image_size={given[1]}"
        )
