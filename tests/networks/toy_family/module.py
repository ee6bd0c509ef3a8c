"""The toy network."""

from torch import nn


class ToyNetworkModule(nn.Module):
    def __init__(self, channels, width, num_classes):
        super().__init__()
        self.into = nn.Conv2d(channels, width, 3, padding=1)
        self.classes = nn.Embedding(num_classes, width) if num_classes else None
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x_BCHW, sigma_B, class_labels):
        sigma = sigma_B.float().view(-1, 1, 1, 1)
        h = self.into(x_BCHW.float() / (1 + sigma**2).sqrt())
        if self.classes is not None:
            h = h + self.classes(class_labels)[:, :, None, None]
        return (x_BCHW + sigma * self.out(h.relu())) / (1 + sigma**2)
