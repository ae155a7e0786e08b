"""Networks that look at a volume: (batch, channels, X, Y, Z) in, (batch, outputs) out.

Each has ``features``, which a transfer takes over, and a ``head``, which it makes anew. None of
them convolves at full resolution: that is where a plain 3D CNN spends nearly all of its time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureNet(nn.Module):
    """``features`` of a volume, and what its ``head`` makes of them."""

    features: nn.Module
    head: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of volumes (batch, channels, X, Y, Z)."""
        logits: Tensor = self.head(self.features(x))
        return logits


class CompactNet(FeatureNet):
    """A small residual network that is fast on a CPU.

    A strided stem turns cubes of 8³ voxels into features in two steps. The head keeps a coarse
    location (4³ cells), because registered brains have their structures in one place.
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


class FullyConvolutionalNet(FeatureNet):
    """Convolution, normalisation and pooling repeated, and a mean over the volume.

    The shape of SFCN (Peng et al., Accurate brain age prediction with lightweight deep neural
    networks, 2021), narrower, and with a strided first convolution in place of its first two
    levels. The mean forgets where a feature was, which suits brains that are not registered.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: tuple[int, ...] = (16, 32, 64, 64),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(channels, widths[0], 4, stride=4)]
        layers += [nn.BatchNorm3d(widths[0]), nn.ReLU()]
        for narrow, wide in itertools.pairwise(widths):
            layers += [
                nn.Conv3d(narrow, wide, 3, padding=1),
                nn.BatchNorm3d(wide),
                nn.MaxPool3d(2, ceil_mode=True),
                nn.ReLU(),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv3d(widths[-1], widths[-1], 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[-1], classes),
        )


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "compact": CompactNet,
    "sfcn": FullyConvolutionalNet,
}
"""Networks by the name that :class:`neuromix.classifiers.base.VolumeClassifier` takes."""


class ImageTowers(nn.Module):
    """A network for each image of a subject; what those say that are present adds up.

    Each gives log odds, whose sum over independent images is right whichever of them are there.
    """

    def __init__(self, network: str, channels: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.towers = nn.ModuleDict(
            {name: NETWORKS[network](count, classes) for name, count in channels.items()}
        )

    def forward(self, present: Tensor, **images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, channels, X, Y, Z).

        ``present`` (batch, images) says which image of a subject is there; the values of absent
        ones do not matter.
        """
        total = torch.zeros(len(present), self.classes, device=present.device)
        for column, (name, tower) in enumerate(self.towers.items()):
            rows = present[:, column].nonzero()[:, 0]
            if len(rows):
                # A lone volume comes twice: a single value cannot be normalised over a batch.
                logits = tower(images[name][rows if len(rows) > 1 else rows.repeat(2)])
                total = total.index_add(0, rows, logits[: len(rows)].float())
        return total


def ordinal(outputs: Tensor) -> Tensor:
    r"""Log probabilities (batch, C) of ordered classes from (batch, C - 1) outputs.

    The log odds of being beyond class k are :math:`u_1 = z_1`, :math:`u_k = u_{k-1} -
    \mathrm{softplus}(z_k)`, which falls with k; the probability of a class is the difference of
    its two limits, :math:`\sigma(a) - \sigma(b) = \sigma(a)\,\sigma(-b)\,(1 - e^{b - a})`.
    """
    outputs = outputs.float()
    steps = functional.softplus(outputs[:, 1:]) + 1e-3
    beyond = torch.cat([outputs[:, :1], outputs[:, :1] - steps.cumsum(1)], dim=1)
    above = functional.logsigmoid(beyond)
    below = functional.logsigmoid(-beyond)
    between = above[:, :-1] + below[:, 1:] + torch.log(-torch.expm1(-steps))
    return torch.cat([below[:, :1], between, above[:, -1:]], dim=1)
