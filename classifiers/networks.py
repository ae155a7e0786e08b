"""Networks that look at a volume: (batch, channels, X, Y, Z) in, (batch, classes) out."""

from __future__ import annotations

from torch import Tensor, nn


class CompactNet(nn.Module):
    """A small residual network that is fast on a CPU.

    A strided stem turns cubes of 8³ voxels into features in two steps, so that no convolution runs
    at full resolution: that is where a plain 3D CNN spends nearly all of its time. The head keeps
    a coarse location (4³ cells), because registered brains have their structures in one place.

    Args:
        channels: Images per subject.
        classes: Classes to tell apart.
        width: Features after the first step; doubled once.
        dropout: Share of features dropped before the last layer.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(channels, width, 4, stride=4),
            nn.BatchNorm3d(width),
            nn.SiLU(),
            nn.Conv3d(width, 2 * width, 2, stride=2),
            ResidualBlock(2 * width),
            ResidualBlock(2 * width),
            nn.BatchNorm3d(2 * width),
            nn.SiLU(),
        )
        self.head = nn.Sequential(
            nn.Conv3d(2 * width, 16, 1),
            nn.AdaptiveAvgPool3d(4),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(16 * 4**3, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of volumes (batch, channels, X, Y, Z)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.BatchNorm3d(width),
            nn.SiLU(),
            nn.Conv3d(width, width, 3, padding=1),
            nn.BatchNorm3d(width),
            nn.SiLU(),
            nn.Conv3d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, width, X, Y, Z)."""
        total: Tensor = x + self.path(x)
        return total


NETWORKS: dict[str, type[nn.Module]] = {"compact": CompactNet}
"""Networks by the name that :class:`classifiers.base.VolumeClassifier` takes."""
