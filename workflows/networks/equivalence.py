"""Whether a tapped network still gives what the plain one gives, and which changes have to be left out for it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workflows.errors import NetworkError
from workflows.networks.copying import own_copy
from workflows.networks.rewriting_choice import Rewriting
from workflows.networks.taps import ResolvedLayer, TappedNetwork, explained, network_result

_CHANGES = tuple(Rewriting(fused=fused, channels_last=last) for last in (True, False) for fused in (True, False))
_UNCHANGED = (Rewriting("recorded", False, False), Rewriting("own", False, False))

_ROUNDING, _ROUNDING64 = 1e-4, 1e-9
"""Of the largest value: what another order of sums may change in float32 and in float64."""
_LOGITS = "logits of the network"  # no layer can be called so

Values = dict[str, Tensor]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckedNetwork:
    """What the plain network says of some images, and how it may be run.

    Attributes:
        rewriting: the changes that keep its logits and the activations of the layers.
        logits: of the plain network, for the images that were given and that it can take.
        shapes: units, height and width of every layer by canonical name.
        probabilities: its outputs are probabilities of classes: not below 0, and of sum 1, for every image that came
            and for noise.
    """

    rewriting: Rewriting
    logits: Float[Tensor, "N M"]
    shapes: dict[str, tuple[int, int, int]]
    probabilities: bool


@torch.no_grad()
def check_network(
    network: nn.Module,
    layers: Sequence[str | ResolvedLayer],
    images: Float[Tensor, "N C H W"],
    outputs: bool = True,
) -> CheckedNetwork:
    """Find the changes that a network bears, fastest first, by comparing logits and taps with the plain network's.

    Every candidate runs over one image and over all of them in float32, as it will run, and in float64 where the
    network can: there a fault of a millionth does not pass for rounding.

    Args:
        network: the network in evaluation mode, float32; left as it is.
        layers: as for ``TappedNetwork``.
        images: at least one; several show where a layout mixes images with positions. Those that the network itself
            cannot take without NaN or infinity say nothing of taps and are left out: extraction names them.
        outputs: the network decides between classes; without, its last layer stands for the logits.

    Raises:
        NetworkError: the network cannot take such images, gives other logits every time or NaN for every image, its
            logits are not (N, classes), or taps change them whatever is left out.
    """
    plain = _Untapped(network, outputs)
    images, logits = _finite(plain, images.contiguous())
    _refuse_chance(plain, images, logits)
    checks = _Checks(network, layers, images, logits, outputs)
    rewriting, expected = checks.reference()
    rewriting = next((one for one in _CHANGES if checks.bears(one, expected)), rewriting)
    shapes = {name: tuple(value.shape[1:]) for name, value in expected.every.items() if name != _LOGITS}
    probabilities = outputs and _are_probabilities(logits) and _are_probabilities(_of_noise(plain, images))
    return CheckedNetwork(rewriting, logits, shapes, probabilities)  # type: ignore[arg-type]


class _Checks:
    """One network, its twin in float64, the layers and images of all comparisons; ``logits``: what it gave for them."""

    def __init__(
        self, network: nn.Module, layers: Sequence[str | ResolvedLayer], images: Tensor, logits: Tensor, outputs: bool
    ) -> None:
        self.layers, self.images, self.network, self.outputs = layers, images, network, outputs
        self.twin: nn.Module | None
        self.twin, exact = _twin(network, images, outputs)
        self.plain = _Results(_run(_Untapped(network, outputs), images[:1]), {_LOGITS: logits}, exact)

    def reference(self) -> tuple[Rewriting, _Results]:
        """The network with copied taps and no other change, and what it gives."""
        came: list[str] = []
        refused: NetworkError | None = None
        for rewriting in _UNCHANGED:
            try:
                found = self._results(rewriting)
            except NetworkError as error:
                refused = refused or error
                continue
            except Exception as error:  # what tracing recorded for symbols may not hold for images
                came.append(f"{type(error).__name__}: {error}")
                continue
            if found.agree_with(self.plain):
                return rewriting, found
            came.append(_numbers(found.every[_LOGITS], self.plain.every[_LOGITS]))
        if not came and refused is not None:
            raise refused
        raise NetworkError(
            f"network {type(self.network).__name__}: with its layers tapped it must give the logits of the plain "
            f"network, gives {came[0]}; name layers that are modules, and keep what changes from call to call out of "
            "the forward pass"
        )

    def bears(self, rewriting: Rewriting, expected: _Results) -> bool:
        """Whether logits and taps survive a rewriting."""
        try:
            return self._results(rewriting).agree_with(expected)
        except Exception as error:  # foreign code may fail in any way; the plain network did not
            _log.info("%s is left out: %s", rewriting, error)
            return False

    def _tapped(self, network: nn.Module, rewriting: Rewriting) -> nn.Module:
        return TappedNetwork(network, self.layers, rewriting=rewriting, outputs=self.outputs)

    def _results(self, rewriting: Rewriting) -> _Results:
        network = self._tapped(self.network, rewriting)
        single, every = _run(network, self.images[:1]), _run(network, self.images)
        # The change is made in float64 as well: weights that were folded in float32 are rounded.
        exact = None if self.twin is None else _run(self._tapped(self.twin, rewriting), self.images.double())
        return _Results(single, every, exact)


@dataclass(frozen=True)
class _Results:
    """Logits and taps of the first image alone, of all images, and of all in float64 (None: it cannot run so)."""

    single: Values
    every: Values
    exact: Values | None

    def agree_with(self, expected: _Results) -> bool:
        """Whether all that is expected is there, within rounding."""
        return all(self._agrees(expected, name) for name in expected.every)

    def _agrees(self, expected: _Results, name: str) -> bool:
        # A network that amplifies rounding is not held to less than its own.
        exact = expected.exact
        noise = 10 * _ROUNDING if exact is None else _ROUNDING + 10 * _distance(expected.every[name], exact[name])
        pairs = ((self.single, expected.single), (self.every, expected.every))
        if any(_distance(found[name], wanted[name]) > noise for found, wanted in pairs):
            return False
        return exact is None or self.exact is None or _distance(self.exact[name], exact[name]) <= _ROUNDING64


class _Untapped(nn.Module):
    """A network in the shape of a tapped one without layers."""

    def __init__(self, network: nn.Module, outputs: bool) -> None:
        super().__init__()
        self.network, self.outputs = network, outputs

    @property
    def title(self) -> str:
        return f"network {type(self.network).__name__}"

    def forward(self, images: Tensor) -> tuple[Tensor, Values]:
        try:
            return network_result(self.network(images), self.outputs), {}
        except NetworkError:
            raise
        except Exception as error:  # foreign code may fail in any way
            raise explained(error, tuple(images.shape[1:])) from error


def _run(network: nn.Module, images: Tensor) -> Values:
    # A traced network prints its code to stderr when it raises; a network may overwrite its images.
    with contextlib.redirect_stderr(io.StringIO()):
        logits, maps = network(images.clone())
    return {_LOGITS: logits, **maps}


def _twin(network: nn.Module, images: Tensor, outputs: bool) -> tuple[nn.Module, Values] | tuple[None, None]:
    """The network in float64 and its logits, or None: it cannot be copied, or makes float32 tensors of its own."""
    try:
        twin = own_copy(network).double()
        return twin, _run(_Untapped(twin, outputs), images.double())
    except Exception:  # foreign code may fail in any way; what matters shows in float32
        return None, None


def _finite(plain: _Untapped, images: Tensor) -> tuple[Tensor, Tensor]:
    """The images whose logits are numbers, and these."""
    logits = _run(plain, images)[_LOGITS]
    numbers = torch.isfinite(logits).all(1)
    if numbers.all():
        return images, logits
    if not numbers.any():
        raise NetworkError(
            f"{plain.title}: must give finite logits, gave {logits[0, 0]:g} for the first of "
            f"{len(images)} images and finite ones for none; check network.weights and the [preprocessing] section"
        )
    return images[numbers], _run(plain, images[numbers])[_LOGITS]


def _refuse_chance(plain: _Untapped, images: Tensor, first: Tensor) -> None:
    again = _run(plain, images)[_LOGITS]
    if _distance(again, first) > _ROUNDING:
        raise NetworkError(
            f"{plain.title}: must give the same logits for the same image every time, gave "
            f"{_numbers(again, first)}; switch randomness off in evaluation mode, for example by "
            "F.dropout(x, training=self.training)"
        )


def _of_noise(plain: _Untapped, images: Tensor) -> Float[Tensor, "8 M"]:
    """Outputs for noise, three times as strong as the images."""
    noise = torch.randn((8, *images.shape[1:]), generator=torch.Generator().manual_seed(0)) * images.std() * 3
    return _run(plain, noise)[_LOGITS]


def _are_probabilities(outputs: Float[Tensor, "N M"]) -> bool:
    """Sigmoids and other values in [0, 1] do not sum to 1 for every image."""
    sums = outputs.double().sum(1)
    return outputs.shape[1] > 1 and bool((outputs >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def _distance(found: Tensor, expected: Tensor) -> float:
    """Largest difference, as a share of the largest expected value; infinite for other shapes and for NaN."""
    if found.shape != expected.shape:
        return math.inf
    scale = float(expected.abs().max().clamp(min=1e-30))
    share = float((found.double() - expected.double()).abs().max()) / scale
    return share if math.isfinite(share) else math.inf


def _numbers(found: Tensor, expected: Tensor) -> str:
    """Where two sets of logits differ most, with both numbers."""
    if found.shape != expected.shape:
        return f"logits of shape {tuple(found.shape)} where {tuple(expected.shape)} is right"
    place = int((found - expected).abs().nan_to_num(nan=math.inf).argmax())
    image, output = divmod(place, found.shape[1])
    return f"{found[image, output]:.6g} where {expected[image, output]:.6g} is right (image {image}, output {output})"
