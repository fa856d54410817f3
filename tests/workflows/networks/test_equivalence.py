"""The tapped network gives the plain network's logits and taps, whatever in-place views, layouts and hooks do."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workflows.networks.sample_networks import Branching, Call, PartlyTraceable, with_random_statistics
from workflows.errors import NetworkError
from workflows.networks.architectures import resnet20_cifar
from workflows.networks.equivalence import check_network
from workflows.networks.rewriting_choice import EVERY_CHANGE, Rewriting
from workflows.networks.taps import TappedNetwork

IMAGES = torch.randn((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))


class Middle(nn.Module):
    """Two convolutions, and between them whatever a test puts there."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.upper = nn.LazyConv2d(6, 3, padding=1)
        self.head = nn.Linear(6, 4)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        maps = self.upper(self.between(self.norm(self.lower(images))))
        return self.head(maps.relu().mean((2, 3)))


def middle(between: Callable[[Tensor], Tensor]) -> nn.Module:
    network = Middle(between).eval()
    with torch.no_grad():
        network(IMAGES)  # gives the lazy convolution its shape
    return with_random_statistics(network)


@torch.no_grad()
def plain(network: nn.Module, layers: list[str], images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and copies of what modules give, by torch's own hooks."""
    kept: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, value, name=name: kept.update({name: value.clone()})
        )
        for name in layers
    ]
    logits = network(images.clone())
    for handle in handles:
        handle.remove()
    return logits, kept


@torch.no_grad()
def checked(network: nn.Module, layers: list[str], images: Tensor = IMAGES) -> Rewriting:
    """The rewriting that was found; its logits and taps are the plain network's, for one image and for several."""
    rewriting = check_network(network, layers, images).rewriting
    tapped = TappedNetwork(network, layers, rewriting=rewriting)
    for some in (images, images[1:], torch.cat([images, -images, images])):
        expected, kept = plain(network, layers, some)
        logits, maps = tapped(some.clone())
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
        for name in layers:
            torch.testing.assert_close(maps[name], kept[name].view_as(maps[name]), rtol=1e-5, atol=1e-5)
    return rewriting


def _chunk(x: Tensor) -> Tensor:
    first, _ = x.chunk(2, 1)
    first.relu_()
    return x


def _split(x: Tensor) -> Tensor:
    first, _ = torch.split(x, [3, 5], 1)
    first.mul_(-2)
    return x


def _unbind(x: Tensor) -> Tensor:
    torch.unbind(x, 1)[0].zero_()
    return x


def _view(x: Tensor) -> Tensor:
    F.relu(x.view(len(x), -1), inplace=True)
    return x


def _iadd(x: Tensor) -> Tensor:
    part = x[:, 2:4]
    part += 5
    return x


def _chained(x: Tensor) -> Tensor:
    x.permute(0, 2, 3, 1).select(3, 0).narrow(1, 0, 4).clamp_(min=0.5)
    return x


def _base_behind_view(x: Tensor) -> Tensor:
    view = x.flatten(2)
    x.relu_()
    return view.view(*x.shape)


def _two_views(x: Tensor) -> Tensor:
    first, second = x[:, :4], x[:, 2:6]
    first.relu_()
    return torch.cat([second, x], 1)


def _out(x: Tensor) -> Tensor:
    torch.mul(x, 3, out=x)
    return x + 1


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": _chunk,
    "split": _split,
    "unbind": _unbind,
    "view": _view,
    "iadd on a slice": _iadd,
    "chained": _chained,
    "base behind its view": _base_behind_view,
    "two views": _two_views,
    "out": _out,
    "detach": lambda x: x.detach().relu_() * 0 + x,
    "data": lambda x: x.data.neg_() * 0 + x,
    "flatten": lambda x: x.flatten(1).sigmoid_().sum() * 0 + x,
    "transpose": lambda x: x.transpose(2, 3).relu_()[:, :1] * 0 + x,
    "expand": lambda x: x[:, :1].expand_as(x).select(1, 0).add_(1)[:, None] * 0 + x,
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3).fill_(9).sum() * 0 + x,
    "unfold": lambda x: x.unfold(2, 4, 4).abs_().sum() * 0 + x,
    "movedim": lambda x: x.movedim(1, -1).exp_().sum() * 0 + x,
    "squeeze": lambda x: x[:, 3:4].squeeze(1).tanh_().sum() * 0 + x,
    "view_as": lambda x: x.view_as(x).hardtanh_().sum() * 0 + x if hasattr(x, "hardtanh_") else x,
    "functional": lambda x: F.leaky_relu_(x[:, :3], 0.1).sum() * 0 + x,
    "threshold": lambda x: F.threshold_(x[:, 3:], 0.2, -3.0).sum() * 0 + x,
    "elu": lambda x: F.elu(x[:, ::2], inplace=True).sum() * 0 + x,
    "masked_fill": lambda x: x[:, 1:3].masked_fill_(x[:, 1:3] > 0, -1.0).sum() * 0 + x,
    "copy": lambda x: x[:, :4].copy_(x[:, 4:]).sum() * 0 + x,
    "tap": lambda x: torch.relu_(x) - 1,
    "index_fill": lambda x: x.index_fill_(1, torch.tensor([0, 5]), 2.0) + 1,
    "swapaxes": lambda x: x.swapaxes(1, 2).mul_(2).sum() * 0 + x,
}


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_overwritten_through_a_view_reads_as_plain(name: str) -> None:
    network = middle(VIEWS[name])
    checked(network, ["lower", "norm", "upper"])
    checked(network, ["norm"])


def test_in_place_on_a_view_was_wrong_before_it_was_checked() -> None:
    network = middle(_chunk)
    wrong, _ = TappedNetwork(network, ["norm"])(IMAGES)
    assert float((wrong - network(IMAGES)).abs().max()) > 0.01 * float(wrong.abs().max())
    assert checked(network, ["norm"]) == Rewriting("recorded", False, False)


class LeNet(nn.Module):
    """As the tutorials write it."""

    def __init__(self, rows_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.rows_first = rows_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(x.size(0), -1) if self.rows_first else x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


@pytest.mark.parametrize("rows_first", [False, True])
def test_the_lenet_of_the_tutorials(rows_first: bool) -> None:
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    network = LeNet(rows_first).eval().requires_grad_(False)
    assert checked(network, ["conv1", "conv2", "fc1"], images) == Rewriting(channels_last=False)


class Layout(nn.Module):
    """What it computes depends on how its activations lie in memory."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.way = nn.Conv2d(3, 4, 3, padding=1), way
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        if self.way == "strided":
            maps = torch.as_strided(maps, maps.shape, (4 * 256, 256, 16, 1))
        elif (self.way == "asked" and maps.is_contiguous()) or (self.way == "stride" and maps.stride(1) != 1):
            maps = maps * 2 + 1
        return self.head(maps.relu().mean((2, 3)))


@pytest.mark.parametrize("way", ["strided", "asked", "stride"])
def test_networks_that_look_at_the_memory_format_keep_it(way: str) -> None:
    assert not checked(Layout(way).eval().requires_grad_(False), ["conv"]).channels_last


def _pruned(conv: nn.Conv2d) -> nn.Conv2d:
    prune.l1_unstructured(conv, "weight", 0.5)
    return conv


def _old_weight_norm(conv: nn.Conv2d) -> nn.Conv2d:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(conv)


REPARAMETRISED: dict[str, Callable[[nn.Conv2d], nn.Module]] = {
    "pruned": _pruned,
    "weight norm": parametrizations.weight_norm,
    "weight norm of old": _old_weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm of old": spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("name", REPARAMETRISED)
def test_convolutions_whose_weights_are_computed_are_not_fused(name: str) -> None:
    torch.manual_seed(0)
    special = REPARAMETRISED[name](nn.Conv2d(3, 8, 3, padding=1))
    network = nn.Sequential(
        *(special, nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    network = with_random_statistics(network)
    assert checked(network, ["1", "4"]) == EVERY_CHANGE
    kept = [type(one) for one in TappedNetwork(network, ["4"]).modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(kept) == 1, "the plain convolution is fused, the other one is not"


class Overridden(nn.Conv2d):
    """A convolution by class alone."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 3 + 1


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.lock = threading.Lock()
        if way == "generator":
            self.lock = (number for number in range(3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(images)), inplace=True).mean((2, 3)))


@pytest.mark.parametrize("way", ["lock", "generator"])
def test_a_network_that_cannot_be_copied_runs_as_it_is(way: str) -> None:
    network = with_random_statistics(Locked(way))
    assert checked(network, ["conv", "norm"]) == Rewriting("recorded", False, False)
    assert network.conv.weight.dtype == torch.float32
    assert network.norm.training is False


class Shared(nn.Module):
    """One convolution and one normalisation under two names each, and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second, self.tied = self.first, nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.first.weight
        self.norm1 = nn.BatchNorm2d(4)
        self.norm2, self.norm3 = self.norm1, nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.act(self.norm1(self.first(self.act(self.stem(images)))))
        maps = self.norm2(self.second(maps))
        return self.head(self.act(self.norm3(self.tied(maps))).mean((2, 3)))


def test_shared_modules_and_tied_weights() -> None:
    network = with_random_statistics(Shared())
    assert checked(network, ["stem", "tied"]) == EVERY_CHANGE
    assert checked(network, ["norm3"]) == EVERY_CHANGE


def test_a_subclass_of_a_convolution_is_not_taken_for_one() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(Overridden(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3))
    checked(with_random_statistics(network), ["1", "2"])


def test_hooks_of_a_user_are_part_of_the_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 196, 3))
    network[0].register_forward_hook(lambda _module, _inputs, value: value * 2 - 1)
    network[1].register_forward_pre_hook(lambda _module, inputs: (inputs[0].abs(),))
    network.register_forward_hook(lambda _module, _inputs, value: value / 7 + 1)
    network = with_random_statistics(network)
    assert checked(network, ["0", "2"]) == Rewriting("own", False, False), "tracing leaves out the hook of the whole"


def test_ordinary_networks_keep_every_change() -> None:
    torch.manual_seed(0)
    for network, layers in (
        (with_random_statistics(resnet20_cifar()), ["layer1.0.conv1", "layer3.1.bn2"]),
        (with_random_statistics(PartlyTraceable()), ["norm", "conv2"]),
        (Branching().eval().requires_grad_(False), ["conv1", "conv2"]),
    ):
        assert checked(network, layers, torch.cat([IMAGES, IMAGES], 3).repeat(1, 1, 2, 1)) == EVERY_CHANGE


class Images(TorchDispatchMode):
    """Counts the images that reach the convolution of three channels, by precision."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if func is torch.ops.aten.convolution.default and args[0].shape[1] == 3:
            self.counts[args[0].dtype] += len(args[0])
        return func(*args, **(kwargs or {}))


def test_no_forward_pass_is_made_twice() -> None:
    """Plain, with recorded and with rewritten operations: one image and two, and two in float64; chance asks again."""
    network = with_random_statistics(resnet20_cifar())
    with Images() as seen:
        assert check_network(network, ["layer1.0.conv1", "layer3.1.bn2"], IMAGES).rewriting == EVERY_CHANGE
    assert seen.counts == {torch.float32: 3 * (1 + 2) + 2, torch.float64: 3 * 2}


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (nn.Softmax(1), True),
        (nn.Sigmoid(), False),
        (nn.LogSoftmax(1), False),
        (nn.Identity(), False),
        (nn.ReLU(), False),
        (Call(lambda z: F.normalize(z.relu() + 1e-3, p=1, dim=1)), True),
        (Call(lambda z: z.sigmoid() / 4 * 2), False),
        (Call(lambda z: F.one_hot(z.argmax(1), z.shape[1]).to(z.dtype)), True),
        (nn.Softmin(1), True),
    ],
)
def test_outputs_that_are_probabilities_are_told_from_others(last: nn.Module, expected: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4), last)
    assert check_network(network.eval().requires_grad_(False), ["0"], IMAGES).probabilities == expected


class Giving(nn.Module):
    """Gives something else than (N, classes), or cannot take what comes."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.conv, self.what = nn.Conv2d(1 if what == "grey" else 5 if what == "five" else 3, 4, 3), what
        self.head = nn.Linear(4, 1 if what == "one" else 3)

    def forward(self, images: Tensor) -> object:
        if self.what == "cuda":
            images = images.cuda()
        logits = self.head(self.conv(images).mean((2, 3)))
        forms: dict[str, object] = {
            "tuple": (logits, logits),
            "list": [logits],
            "dict": {"logits": logits},
            "namedtuple": Named(logits, logits),
            "flat": logits.flatten() if self.what == "flat" else None,
            "map": logits[:, :, None, None],
        }
        return forms.get(self.what, logits)


class Named(NamedTuple):
    """As torchvision's Inception gives in training."""

    logits: Tensor
    other: Tensor


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("tuple", "must give one tensor of logits .* gives a tuple; wrap it"),
        ("list", "must give one tensor of logits .* gives a list; wrap it"),
        ("dict", "must give one tensor of logits .* gives a dict; wrap it"),
        ("namedtuple", "must give one tensor of logits .* gives a Named; wrap it"),
        ("flat", r"the logits must be \(N, classes\), the network gives \(6,\); wrap"),
        ("map", r"the network gives \(2, 3, 1, 1\); wrap"),
        (
            "one",
            r"one output for each class, the network has one output; wrap .*torch\.cat\(\[torch\.zeros_like\(z\), z",
        ),
        ("grey", r"cannot take images .*; set preprocessing\.channels = 1, with as many numbers in"),
        ("five", r"cannot take images .*; it reads 5 channels: wrap it"),
        ("cuda", r"cannot take images .*; its code asks for a GPU: take \.cuda\(\)"),
    ],
)
def test_the_hint_fits_the_cause(what: str, words: str) -> None:
    if what == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(NetworkError, match=words):
        check_network(Giving(what).eval().requires_grad_(False), ["conv"], IMAGES)


class Dropping(nn.Module):
    """Forgets to tell dropout that it is not in training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.dropout(self.conv(images).mean((2, 3))))


def test_a_network_with_randomness_is_refused_with_both_numbers() -> None:
    words = r"must give the same logits .* every time, gave -?[\d.e-]+ where -?[\d.e-]+ is right .*training=self\.train"
    with pytest.raises(NetworkError, match=words):
        check_network(Dropping().eval(), ["conv"], IMAGES)


class Counting(nn.Module):
    """Its forward pass depends on how often it ran since the first layer was called in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        return self.head(maps.mean((2, 3))) + 10 * bool(self.conv._forward_hooks)


def test_a_network_that_no_tap_leaves_alone_is_refused() -> None:
    words = r"with its layers tapped it must give the logits of the plain network, gives -?[\d.]+ where .* is right"
    network = Counting().eval().requires_grad_(False)
    network.head.register_forward_hook(lambda _module, _inputs, value: value.clone())
    network.register_forward_hook(lambda _module, _inputs, value: value * 1.5)
    with pytest.raises(NetworkError, match=words):
        check_network(network, ["conv"], IMAGES)


def test_networks_without_float64_are_checked_in_float32() -> None:
    network = middle(lambda x: x.float() @ torch.eye(16))
    checked(network, ["lower"])
    network = middle(lambda x: _chunk(x.float() @ torch.eye(16)))
    assert checked(network, ["lower"]).operations == "recorded"


def test_images_that_overflow_are_left_to_the_extraction() -> None:
    """Such images say nothing of taps; extraction names layer and image."""
    network = middle(lambda x: x)
    bright = torch.cat([IMAGES, torch.full_like(IMAGES[:1], torch.inf)])
    found = check_network(network, ["lower"], bright)
    assert torch.equal(found.logits, check_network(network, ["lower"], IMAGES).logits)
    with pytest.raises(NetworkError, match=r"must give finite logits, gave nan for .* 1 images .*network\.weights"):
        check_network(network, ["lower"], bright[2:])
