"""An autoencoder trained against a discriminator, as an objective of the one training loop."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from neuromix.augment.diffusion.objectives import Batch, Generators, Objective


class AdversarialAutoencoding(Objective):
    """Volumes through a code and back, against a discriminator (VQ-GAN, Esser et al. 2021).

    The autoencoder minimises, with F_l the L layers of the discriminator, the last its judgement,

        mean (x' - x)² + w_c code(x) + w_a mean (F_L(x') - 1)² + w_m mean_l | F_l(x') - F_l(x) |

    where code is the commitment to the codes or the divergence of a normal code; and the
    discriminator mean (F_L(x) - 1)² + F_L(x')² (least squares, Mao et al. 2017). Squares are means
    over the mask. In evaluation only the first two terms count, which alone mean the same at every
    step: they choose the best.

    Args:
        autoencoder: A :class:`VolumeAutoencoder`.
        discriminator: A :class:`VolumeDiscriminator`.
        code: Weight w_c.
        adversarial: Weight w_a.
        matching: Weight w_m.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        discriminator: nn.Module,
        *,
        code: float,
        adversarial: float = 0.001,
        matching: float = 0.001,
    ) -> None:
        self.networks = {"autoencoder": autoencoder, "discriminator": discriminator}
        self.autoencoder: Any = autoencoder
        self.discriminator = discriminator
        self.weights = (code, adversarial, matching)
        self.encodings: Tensor | None = None
        """Some of the last batch, one for each code that may have to be revived."""

    def loss(self, name: str, batch: Batch, generators: Generators) -> Tensor:
        """Mean loss of either network over a batch ``{"images"}`` of (B, 1, X, Y, Z)."""
        images = batch["images"]
        if name == "discriminator":
            with torch.no_grad():
                self.autoencoder.eval()  # codes move once a step
                inputs, again, _, _ = self.autoencoder(images, generators)
                self.autoencoder.train()
            judged = self.networks[name](torch.cat([inputs, again]))[-1]
            real, made = judged.float().chunk(2)
            return ((real - 1) ** 2).mean() + (made**2).mean()
        network = self.networks[name]
        inputs, again, penalty, encoded = network(images, generators)
        code, adversarial, matching = self.weights
        inside = self.autoencoder.mask.mean() * images[0].numel() / inputs[0].numel()
        loss = ((again.float() - inputs) ** 2).mean() / inside + code * penalty
        if not network.training:
            return loss
        if self.autoencoder.codebook is not None:
            flat = encoded.detach().float().movedim(1, -1).flatten(0, -2)
            codes = self.autoencoder.config["codes"]
            chosen = torch.randint(len(flat), (codes,), generator=generators[0])
            self.encodings = flat[chosen.to(flat.device)]
        # The judge stands still: no gradient goes to its weights.
        still = {key: value.detach() for key, value in self.discriminator.named_parameters()}
        features = torch.func.functional_call(
            self.discriminator, still, (torch.cat([inputs, again]),)
        )
        pairs = [feature.float().chunk(2) for feature in features]
        fooled = ((pairs[-1][1] - 1) ** 2).mean()
        apart = torch.stack([(made - real.detach()).abs().mean() for real, made in pairs[:-1]])
        return loss + adversarial * fooled + matching * apart.mean()

    @torch.no_grad()
    def stepped(self) -> dict[str, float]:
        """Revive dead codes, the same in all processes; tell how many are used."""
        if self.encodings is None:
            return {}
        usage: dict[str, float] = self.autoencoder.revive(broadcast(self.encodings))
        return usage
