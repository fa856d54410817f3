"""Trains a network as the encoder of a VAE-GAN, or of a plain VAE, in memory, before the run freezes it.

Source: Larsen, Sønderby, Larochelle, Winther, *Autoencoding beyond pixels using a learned similarity metric* (ICML
2016); EG explains the encoder of such a network. A picture x has a code z ~ N(mean, variance) and is rebuilt from it. A
discriminator tells pictures from made ones, and its last maps say how alike x and rebuilt x are.

Ours are three choices for few pictures. The spread of a likelihood is the one that fits best (Rybkin, Daniilidis,
Levine, *Simple and effective VAE training with calibrated decoders*, ICML 2021), so no weight has to be found for the
divergence. Pixels count beside the discriminator's maps. Half of the made pictures are rebuilt ones, half come from
drawn codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import astuple, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.networks.training import varied
from workflows.settings import TrainingSettings

DOUBLINGS = 3
"""Up-convolutions of the decoder, and halvings of the discriminator."""

_WIDTHS = (96, 48, 32, 16)
"""Channels of the decoder, its coarsest maps first."""

_SEEN = (24, 48, 96)
"""Units of the discriminator's convolutions."""

_ADVERSARY = 0.05
"""Weight of fooling the discriminator beside the likelihoods, nats a number."""

_PACE = 0.25
"""Step size of the discriminator over that of the others: it has the easier task."""

_BETAS = (0.5, 0.99)
_REAL = 0.9
"""What the discriminator is to say of pictures: a certain one teaches nothing any more."""

_LOG_VARIANCES = (-12.0, 6.0)
_LEAST = 1e-6
"""Mean squared error below which a likelihood does not rise."""


class PictureDecoder(nn.Sequential):
    """Codes (b, Z) to normalised pictures (b, 3, h, w).

    Args:
        latent: Z.
        size: h and w, divisible by 8.
    """

    def __init__(self, latent: int, size: tuple[int, int]) -> None:
        layers: list[nn.Module]
        shape = _WIDTHS[0], size[0] >> DOUBLINGS, size[1] >> DOUBLINGS
        layers = [nn.Linear(latent, shape[0] * shape[1] * shape[2]), nn.Unflatten(1, shape)]
        layers += [nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU()]
        for below, width in itertools.pairwise(_WIDTHS):
            doubled = nn.ConvTranspose2d(below, width, 4, 2, padding=1, bias=False)
            layers += [doubled, nn.BatchNorm2d(width), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(_WIDTHS[-1], 3, 3, padding=1))
        self.latent = latent

    @torch.inference_mode()
    def made(self, count: int, seed: int) -> Float[Tensor, "n 3 h w"]:
        """Pictures of codes that are drawn."""
        made: Tensor = self(torch.randn(count, self.latent, generator=torch.Generator().manual_seed(seed)))
        return made


class _Discriminator(nn.Module):
    """Its last maps, by which pictures are compared, and a logit of being no made picture."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, units in zip((3, *_SEEN), _SEEN, strict=False):
            layers += [nn.Conv2d(below, units, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        self.maps = nn.Sequential(*layers)
        self.verdict = nn.Linear(_SEEN[-1] * (size[0] >> DOUBLINGS) * (size[1] >> DOUBLINGS), 1)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b D y x"], Float[Tensor, " b"]]:
        maps = self.maps(pictures)
        return maps, self.verdict(maps.flatten(1))[:, 0]


@dataclass(frozen=True)
class AutoencoderLosses:
    """Means over an epoch, nats.

    Attributes:
        divergence: of the codes from the standard normal distribution, a picture.
        pixels: half the logarithm of the mean squared error of rebuilt pictures, normalised.
        likeness: the same of the discriminator's last maps; 0 for a VAE.
        fooled: cross entropy of made pictures being taken for real; 0 for a VAE.
        discriminator: its own; 0 for a VAE.
    """

    divergence: float = 0.0
    pixels: float = 0.0
    likeness: float = 0.0
    fooled: float = 0.0
    discriminator: float = 0.0

    @property
    def total(self) -> float:
        """Of what encoder and decoder are judged by, without the divergence, which is per picture."""
        return self.pixels + self.likeness + _ADVERSARY * self.fooled


Progress = Callable[[int, int, AutoencoderLosses], None]
"""Called after every epoch with the epoch from 1, the number of epochs and the epoch's mean losses."""


def check_encoder(outputs: int, shape: tuple[int, int, int], field: str = "training.objective") -> None:
    """Whether a network can be the encoder of pictures.

    Args:
        outputs: numbers that it gives an image.
        shape: (C, H, W) of its input.
        field: the setting that asks for it.

    Raises:
        NetworkError: they do not divide into means and variances, or the sides not by the decoder's doublings.
    """
    channels, *sides = shape
    step = 2**DOUBLINGS
    if channels != 3 or any(side % step for side in sides):
        raise NetworkError(
            f"{field}: must have pictures of 3 channels whose sides are divisible by {step} for an autoencoder, got "
            f"{tuple(shape)}; set preprocessing.resize and preprocessing.crop, such as 64"
        )
    if outputs % 2:
        raise NetworkError(
            f"{field}: must have an encoder that gives mean and log variance of every number of a code, got {outputs} "
            "outputs, which is odd; name another network.name or network.arguments"
        )


def train_autoencoder(
    encoder: nn.Module,
    images: Float[Tensor, "N 3 h w"],
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    keep: Callable[[int, nn.Module], None] | None = None,
) -> PictureDecoder:
    """Train a network in place as an encoder, and a decoder with it: Adam, a one-cycle rate.

    Args:
        encoder: gives mean and log variance of codes; with its start parameters.
        images: normalised.
        settings: objective, epochs, batch, learning rate, weight decay, flip and shift.
        seed: of the decoder's start, the order, the codes and what is varied; equal threads give equal results.
        progress: called after every epoch.
        keep: called with the epoch from 1 and the encoder after every epoch of which ``settings`` keep the weights.

    Returns:
        The decoder; both are in evaluation mode and without gradients of their parameters.

    Raises:
        NetworkError: fewer than two images, an encoder or sizes that do not fit, or losses that are no longer finite.
    """
    if len(images) < 2:
        raise NetworkError(f"training needs at least 2 images to learn pictures from: {len(images)} came; name more")
    with torch.inference_mode():
        outputs = encoder.eval()(images[:1].contiguous()).flatten(1).shape[1]
    size = (images.shape[2], images.shape[3])
    check_encoder(outputs, (images.shape[1], *size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = PictureDecoder(outputs // 2, size)
        discriminator = _Discriminator(size) if settings.objective == "vae_gan" else None
    images = images.contiguous(memory_format=torch.channels_last)
    for network in (encoder, decoder):
        network.to(memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
    trainer = _Trainer(encoder, decoder, discriminator, settings, len(images), seed)
    for epoch in range(1, settings.epochs + 1):
        losses = trainer.epoch(images)
        if progress is not None:
            progress(epoch, settings.epochs, losses)
        if keep is not None and settings.keeps(epoch):
            keep(epoch, encoder)
    for network in (encoder, decoder):
        network.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload]
    return decoder


@torch.inference_mode()
def rebuilt(
    encoder: nn.Module, decoder: PictureDecoder, images: Float[Tensor, "N 3 h w"], batch: int = 50
) -> Float[Tensor, "N 3 h w"]:
    """Pictures from the means of their codes, normalised as the images are."""
    return torch.cat(
        [decoder(encoder(some.contiguous()).flatten(1).chunk(2, dim=1)[0]) for some in images.split(batch)]
    )


class _Trainer:
    """Networks with their optimisers, and all that is drawn."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: PictureDecoder,
        discriminator: _Discriminator | None,
        settings: TrainingSettings,
        images: int,
        seed: int,
    ) -> None:
        self.encoder, self.decoder, self.discriminator = encoder, decoder, discriminator
        self.settings, self.draw = settings, torch.Generator().manual_seed(seed)
        self.batch = min(settings.batch, images)
        self.steps = images // self.batch
        self.makers = [*encoder.parameters(), *decoder.parameters()]
        self.rules = [self._rule(self.makers, 1.0)]
        if discriminator is not None:
            self.rules.append(self._rule(list(discriminator.parameters()), _PACE))

    def _rule(
        self, parameters: list[nn.Parameter], pace: float
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        peak = pace * self.settings.learning_rate
        rule = torch.optim.AdamW(parameters, peak, betas=_BETAS, weight_decay=self.settings.weight_decay)
        steps = max(self.settings.epochs * self.steps, 2)
        # The schedule would move the first of the betas too, which the adversaries want low.
        return rule, torch.optim.lr_scheduler.OneCycleLR(
            rule, peak, total_steps=steps, pct_start=0.1, cycle_momentum=False
        )

    def epoch(self, images: Float[Tensor, "N 3 h w"]) -> AutoencoderLosses:
        """One pass over the images but for an incomplete last batch; gives mean losses."""
        order = torch.randperm(len(images), generator=self.draw)[: self.steps * self.batch]
        found = []
        for rows in order.view(self.steps, self.batch):
            found.append(astuple(self._step(varied(images[rows], self.settings, self.draw))))
        return AutoencoderLosses(*(sum(column) / self.steps for column in zip(*found, strict=True)))

    def _step(self, pictures: Float[Tensor, "b 3 h w"]) -> AutoencoderLosses:
        mean, log_variance = self.encoder(pictures).flatten(1).chunk(2, dim=1)
        log_variance = log_variance.clamp(*_LOG_VARIANCES)
        code = mean + self._normal(mean.shape) * (log_variance / 2).exp()
        shown = self.decoder(code)
        losses = {"divergence": code_divergence(mean, log_variance), "pixels": half_log_error(shown, pictures)}
        if self.discriminator is not None:
            losses |= self._judged(self.discriminator, pictures, shown, code.detach())
        if not all(bool(loss.isfinite()) for loss in losses.values()):
            raise NetworkError("training: the losses are no longer finite; lower training.learning_rate")
        self._descend(losses, pictures[0].numel())
        return AutoencoderLosses(**{name: float(loss.detach()) for name, loss in losses.items()})

    def _judged(
        self, discriminator: _Discriminator, pictures: Tensor, shown: Tensor, code: Float[Tensor, "b Z"]
    ) -> dict[str, Tensor]:
        """What the discriminator says; the adversary's gradient reaches the decoder alone, as in the paper."""
        half = len(code) // 2
        made = self.decoder(torch.cat([code[:half], self._normal(code[half:].shape)]))
        (real, said_real), (seen, _), (_, said_made) = (discriminator(one) for one in (pictures, shown, made))
        own = _entropy(said_real, _REAL) + _entropy(said_made, 0.0)
        return {
            "likeness": half_log_error(seen, real.detach()),
            "fooled": _entropy(said_made, 1.0),
            "discriminator": own,
        }

    def _descend(self, losses: dict[str, Tensor], numbers: int) -> None:
        total = losses["pixels"] + losses["divergence"] / numbers
        aims = [(total, self.makers)]
        if self.discriminator is not None:
            total = total + losses["likeness"] + _ADVERSARY * losses["fooled"]
            aims = [(total, self.makers), (losses["discriminator"], list(self.discriminator.parameters()))]
        # All gradients before any step: they are of the same parameters.
        gradients = [torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True) for loss, own in aims]
        for (_, own), found, (rule, schedule) in zip(aims, gradients, self.rules, strict=True):
            for parameter, gradient in zip(own, found, strict=True):
                parameter.grad = gradient
            rule.step()
            schedule.step()

    def _normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self.draw)


def code_divergence(mean: Float[Tensor, "b Z"], log_variance: Float[Tensor, "b Z"]) -> Float[Tensor, ""]:
    """KL(N(mean, variance) || N(0, 1)) in nats, a picture (Kingma and Welling, ICLR 2014, appendix B)."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2


def half_log_error(shown: Tensor, wanted: Tensor) -> Tensor:
    """The negative log likelihood a number at the spread that fits best, but for a constant."""
    return (shown - wanted).square().mean().add(_LEAST).log() / 2


def _entropy(logits: Float[Tensor, " b"], wanted: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, wanted))
