"""Networks that look at a volume: (batch, channels, X, Y, Z) in, (batch, classes) out."""

from __future__ import annotations


from torch import Tensor, nn


class CompactNet(nn.Module):
    """A small residual network that is fast on a CPU.

    A strided stem cuts the volume into patches of 4³ voxels, so that no convolution runs at full
    resolution: that is where a plain 3D CNN spends nearly all of its time.

    Args:
        channels: Images per subject.
        classes: Classes to tell apart.
        width: Features after the stem; doubled once.
        dropout: Share of features dropped before the last layer.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        self.stem = nn.Conv3d(channels, width, 4, stride=4)
        self.stages = nn.Sequential(
            ResidualBlock(width, width),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 2 * width),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of volumes (batch, channels, X, Y, Z)."""
        features: Tensor = self.stages(self.stem(x))
        logits: Tensor = self.head(features.mean((2, 3, 4)))
        return logits


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.GroupNorm(8, inputs),
            nn.SiLU(),
            nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1),
            nn.GroupNorm(8, outputs),
            nn.SiLU(),
            nn.Conv3d(outputs, outputs, 3, padding=1),
        )
        self.shortcut = (
            nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, outputs, X', Y', Z')."""
        total: Tensor = self.path(x) + self.shortcut(x)
        return total


NETWORKS: dict[str, type[nn.Module]] = {"compact": CompactNet}
"""Networks by the name that :class:`classifiers.base.VolumeClassifier` takes."""


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers in a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


