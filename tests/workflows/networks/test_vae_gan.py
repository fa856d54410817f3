"""An encoder, a decoder and a discriminator on drawn scenes: what they learn, what a seed settles, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gmm_ops.explanatory.synthesis import signal_to_noise
from tests.references.autoencoder import slow_divergence, slow_half_log_error
from workflows.data.preprocessing import Preprocessor
from workflows.data.scenes import load_scenes
from workflows.errors import NetworkError, SettingsError
from workflows.networks.architectures import PictureEncoder
from workflows.networks.vae_gan import (
    AutoencoderLosses,
    PictureDecoder,
    check_encoder,
    code_divergence,
    half_log_error,
    rebuilt,
    train_autoencoder,
)
from workflows.settings import PreprocessingSettings, TrainingSettings, parse_settings

QUICK = {"objective": "vae_gan", "epochs": 2, "batch": 6, "learning_rate": 1e-3, "flip": True}
GREY = PreprocessingSettings(mean=(0.5,) * 3, std=(0.5,) * 3)


def encoder(side: int = 32) -> PictureEncoder:
    torch.manual_seed(4)
    return PictureEncoder(latent=8, units=(6, 8), side=side)


def scenes(count: int = 12) -> Tensor:
    """Drawn objects, 32 pixels a side."""
    pixels = load_scenes().images.pixels[:count, ::2, ::2]
    return Preprocessor(GREY).normalise(np.ascontiguousarray(pixels))


def trained(seed: int, **change: object) -> tuple[nn.Module, PictureDecoder, list[AutoencoderLosses]]:
    own, losses = encoder(), list[AutoencoderLosses]()
    settings = TrainingSettings.model_validate({**QUICK, **change})
    decoder = train_autoencoder(own, scenes(), settings, seed, lambda *call: losses.append(call[2]))
    return own, decoder, losses


@pytest.mark.parametrize("objective", ["vae", "vae_gan"])
def test_a_seed_settles_encoder_and_decoder(objective: str) -> None:
    first, second, other = (trained(seed, objective=objective) for seed in (1, 1, 2))
    for one, same, strange in zip(first[:2], second[:2], other[:2], strict=True):
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in one.state_dict().items())
        assert not all(torch.equal(value, strange.state_dict()[name]) for name, value in one.state_dict().items())
        assert not one.training
        assert not any(parameter.requires_grad for parameter in one.parameters())
    assert first[2] == second[2]
    assert len(first[2]) == 2
    for losses in first[2]:
        assert math.isfinite(losses.total)
        assert losses.divergence > 0
        assert (losses.discriminator > 0) == (losses.fooled > 0) == (objective == "vae_gan")


def test_the_discriminator_changes_what_is_learned() -> None:
    alone, judged = (trained(1, objective=name)[0].state_dict() for name in ("vae", "vae_gan"))
    assert not torch.equal(alone["conv1.weight"], judged["conv1.weight"])


@pytest.mark.slow  # a training that gets somewhere takes a minute
def test_rebuilt_pictures_come_closer_than_the_mean_picture() -> None:
    images, own = scenes(160), encoder()
    settings = TrainingSettings(objective="vae", epochs=20, batch=16, learning_rate=4e-3)
    decoder = train_autoencoder(own, images[:144], settings, 0)
    colours = Preprocessor(GREY).colours
    mean = signal_to_noise(colours(images[:144].mean(dim=0).expand(16, -1, -1, -1)), colours(images[144:])).mean()
    found = signal_to_noise(colours(rebuilt(own, decoder, images[144:], batch=5)), colours(images[144:])).mean()
    assert float(found) > float(mean) + 1


def test_made_pictures_are_those_of_their_seed() -> None:
    images, decoder = scenes(3), PictureDecoder(8, (32, 32)).eval()
    first, second, other = (decoder.made(3, seed) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    own = encoder().eval()
    assert first.shape == images.shape == rebuilt(own, decoder, images, batch=2).shape
    torch.testing.assert_close(rebuilt(own, decoder, images, batch=2), rebuilt(own, decoder, images))


def test_losses_equal_their_slow_twins() -> None:
    draw = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(2, 5, 3, generator=draw).unbind()
    expected = slow_divergence(mean.tolist(), log_variance.tolist())
    assert float(code_divergence(mean, log_variance)) == pytest.approx(expected, rel=1e-6)
    assert float(code_divergence(torch.zeros(4, 3), torch.zeros(4, 3))) == 0
    shown, wanted = torch.randn(2, 4, 6, generator=draw).unbind()
    error = slow_half_log_error(shown.tolist(), wanted.tolist())
    assert float(half_log_error(shown, wanted)) == pytest.approx(error, rel=1e-5)


def test_colours_are_the_inverse_of_normalise() -> None:
    settings = PreprocessingSettings(channel_order="bgr", scale=1, mean=(100, 110, 120), std=(50, 60, 70))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    found = Preprocessor(settings).colours(Preprocessor(settings).normalise(pixels))
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy() * 255, pixels, atol=1e-3)


@pytest.mark.parametrize(
    ("outputs", "shape", "words"),
    [
        (7, (3, 32, 32), "gives mean and log variance of every number of a code, got 7 outputs, which is odd"),
        (8, (3, 36, 32), r"sides are divisible by 8 for an autoencoder, got \(3, 36, 32\); set preprocessing.resize"),
        (8, (1, 32, 32), r"must have pictures of 3 channels .* got \(1, 32, 32\)"),
    ],
)
def test_encoders_that_do_not_fit(outputs: int, shape: tuple[int, int, int], words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        check_encoder(outputs, shape)


def test_what_cannot_be_learned_is_refused() -> None:
    settings = TrainingSettings.model_validate(QUICK)
    with pytest.raises(NetworkError, match="at least 2 images to learn pictures from: 1 came; name more"):
        train_autoencoder(encoder(), scenes(1), settings, 0)
    with pytest.raises(NetworkError, match=r"losses are no longer finite; lower training\.learning_rate"):
        train_autoencoder(encoder(), scenes() * 1e30, settings, 0)
    with pytest.raises(ValueError, match="side must be divisible by 4, got 30"):
        PictureEncoder(units=(6, 8), side=30)


RUN = {
    "name": "a",
    "data": {"source": "scenes"},
    "network": {"name": "a:b", "weights": "train", "layers": ["c"], "outputs": "none"},
    "fit": {"words": 5},
}


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("training", {"trains": "head", "start": "a.pt", "flip": False}, "training.trains: must be 'all' with"),
        ("training", {"label_smoothing": 0.1}, "training.label_smoothing: must be left out with"),
        ("training", {"batch": 1}, "training.batch: must be 2 or more with training.objective = 'vae_gan', got 1"),
        ("training", {"learning_rate": None}, "training.learning_rate: must be given with"),
        ("training", {"objective": "classes", "boxes": "a.csv"}, "training.boxes: must be left out with"),
        ("training", {"objective": "classes"}, "network.weights: must name weights, or be trained for pictures"),
        ("training", {"objective": "gan"}, "training.objective: Input should be 'classes', 'vae' or 'vae_gan'"),
        ("network", {"outputs": "classes"}, "network.outputs: must be 'none' with a training.objective of pictures"),
    ],
)
def test_settings_that_contradict(section: str, change: dict[str, object], words: str) -> None:
    raw = {**RUN, "training": dict(QUICK)}
    raw[section] = {key: value for key, value in {**raw[section], **change}.items() if value is not None}  # type: ignore[dict-item]
    with pytest.raises(SettingsError) as error:
        parse_settings(raw)
    assert words in str(error.value)
