"""R(p): the known answers, by tracing and by NaN perturbation, and the operations in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from gmm_ops.graphs.windows import AxisWindow, Window
from tests.references.receptive_fields import AxisOp, columns_fed, positions_read
from tests.workflows.networks.sample_networks import (
    Branching,
    Call,
    OneOperation,
    PartlyTraceable,
    thin_resnet50,
    thin_vgg16,
)
from workflows.errors import NetworkError
from workflows.networks.architectures import digits_resnet, resnet20_cifar
from workflows.networks.compiled_ops import torchvision
from workflows.networks.listing import list_layers
from workflows.networks.loading import load_network
from workflows.networks.perturbation import fit_axis, measure_relations, measure_window
from workflows.networks.receptive_fields import trace_window
from workflows.networks.tracing import trace_network
from workflows.networks.window_rules import UnknownWindow
from workflows.settings import NetworkSettings

RESNET20 = [("add2", "add4", (2, -5, 11)), ("add4", "add6", (1, -4, 9)), ("add6", "add8", (2, -7, 15))]
RESNET50 = [("add3", "add7", (2, -7, 15)), ("add7", "add13", (2, -11, 23)), ("add13", "add16", (2, -5, 11))]
VGG16 = [
    ("conv2_1", "conv3_1", (2, -3, 8)),
    ("conv3_1", "conv4_1", (2, -4, 10)),
    ("conv4_1", "conv5_1", (2, -4, 10)),
]
SQUEEZENET = [
    ("features.3.cat", "features.5.cat", (1, -2, 5)),
    ("features.5.cat", "features.7.cat", (2, -2, 7)),
    ("features.7.cat", "features.12.cat", (2, -5, 13)),
]


def assert_as_measured(network: nn.Module, lower: str | None, upper: str, shape: tuple[int, int, int]) -> Window:
    """The traced window, cropped, is what NaN shows at every position of both axes."""
    window = trace_window(network, lower, upper, shape)
    for axis, relation in zip(
        (window.rows, window.columns), measure_relations(network, lower, upper, shape), strict=True
    ):
        for position in range(relation.shape[1]):
            fed = torch.nonzero(relation[:, position]).flatten().tolist()
            assert fed == list(range(*axis.range(position, relation.shape[0]))), (upper, position)
    return window


@pytest.mark.parametrize(("lower", "upper", "expected"), RESNET20)
def test_resnet20(lower: str, upper: str, expected: tuple[int, int, int]) -> None:
    network = resnet20_cifar()
    assert assert_as_measured(network, lower, upper, (3, 32, 32)) == Window.square(*expected)
    assert measure_window(network, lower, upper, (3, 32, 32)) == Window.square(*expected)


@pytest.mark.parametrize(("lower", "upper", "expected"), RESNET50)
def test_resnet50(lower: str, upper: str, expected: tuple[int, int, int]) -> None:
    # At 128 pixels there are positions whose window is cut at one end of the map alone; with its weights it takes 224.
    network = thin_resnet50()
    assert assert_as_measured(network, lower, upper, (3, 128, 128)) == Window.square(*expected)


@pytest.mark.parametrize(("lower", "upper", "expected"), VGG16)
def test_vgg16(lower: str, upper: str, expected: tuple[int, int, int]) -> None:
    assert assert_as_measured(thin_vgg16(), lower, upper, (3, 96, 96)) == Window.square(*expected)


def test_vgg16_of_torchvision() -> None:
    with torch.device("meta"):
        network = torchvision.models.vgg16(weights=None, init_weights=False)
    for lower, upper, expected in VGG16:
        assert trace_window(network, lower, upper, (3, 224, 224)) == Window.square(*expected)
    assert trace_window(network, "conv5_1", "output", (3, 224, 224)) == Window.whole()


@pytest.mark.parametrize("side", [131, 120])
@pytest.mark.parametrize(("lower", "upper", "expected"), SQUEEZENET)
def test_squeezenet(lower: str, upper: str, expected: tuple[int, int, int], side: int) -> None:
    # At 131 pixels every pooling fits; at 120 the last window of two of them hangs over the edge (ceil_mode).
    network = torchvision.models.squeezenet1_0(weights=None, num_classes=4)
    assert assert_as_measured(network, lower, upper, (3, side, side)) == Window.square(*expected)


@pytest.mark.slow
def test_resnet50_with_its_weights_as_measured(shared_data: Path) -> None:
    weights = str(shared_data / "weights" / "resnet50_imagenet_fp16.pt")
    network = load_network(NetworkSettings(name="torchvision:resnet50", weights=weights, layers=("add3",)))
    for lower, upper, expected in RESNET50:
        assert assert_as_measured(network, lower, upper, (3, 224, 224)) == Window.square(*expected)


@pytest.mark.slow
def test_squeezenet_with_its_weights_as_measured(shared_data: Path) -> None:
    weights = str(shared_data / "weights" / "squeezenet1_0_imagenet.pt")
    network = load_network(NetworkSettings(name="torchvision:squeezenet1_0", weights=weights, layers=("x",)))
    for lower, upper, expected in SQUEEZENET:
        assert assert_as_measured(network, lower, upper, (3, 227, 227)) == Window.square(*expected)


def test_the_output_sees_every_position() -> None:
    for network, lower in ((resnet20_cifar(), "add8"), (digits_resnet(), "add1")):
        assert assert_as_measured(network, lower, "output", (3, 32, 32)) == Window.whole()


def test_receptive_fields_in_pixels() -> None:
    network = resnet20_cifar()
    assert assert_as_measured(network, None, "add2", (3, 32, 32)) == Window.square(1, -5, 11)
    assert assert_as_measured(network, None, "add4", (3, 32, 32)) == Window.square(2, -10, 21)
    assert trace_window(network, None, "add8", (3, 32, 32)) == Window.square(4, -32, 65)


def test_columns_of_resnet20_one_by_one() -> None:
    """NaN in single columns of add2, with the part up to add4 written out by hand."""
    torch.manual_seed(0)
    network = resnet20_cifar().double().eval().requires_grad_(False)

    def resume(maps: Tensor) -> Tensor:
        block, below = network.layer2[0], network.layer1[2](maps.relu())
        return block.bn2(block.conv2(block.bn1(block.conv1(below)).relu())) + block.shortcut(below)

    sample = [(0, 0), (0, 31), (31, 31), (5, 6), (16, 3), (13, 30)]
    fed = columns_fed(resume, torch.randn(1, 16, 32, 32, dtype=torch.float64), sample)
    window = trace_window(network, "add2", "add4", (3, 32, 32))
    for (y, x), columns in zip(sample, fed, strict=True):
        for v in range(16):
            for u in range(16):
                y0, x0, y1, x1 = window.bounds(v, u, 32, 32)
                assert bool(columns[v, u]) == (y0 <= y < y1 and x0 <= x < x1)


axis_ops = st.builds(AxisOp, st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))


@given(st.lists(axis_ops, min_size=1, max_size=4), st.integers(0, 9))
def test_a_chain_of_convolutions_reads_what_its_definition_says(ops: list[AxisOp], position: int) -> None:
    extent = 400
    for op in reversed(ops):
        extent = (extent + 2 * op.padding - op.dilation * (op.kernel - 1) - 1) // op.stride + 1
        assume(extent > 0)
    convolutions = [nn.Conv2d(1, 1, op.kernel, op.stride, op.padding, op.dilation) for op in reversed(ops)]
    network = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    axis = trace_window(network, None, str(len(ops) - 1), (1, 400, 400)).rows
    read = positions_read(position, ops)
    assert axis.range(position + 1000, 10**9) == (
        min(read) + 1000 * axis.stride,
        max(read) + 1 + 1000 * axis.stride,
    )


CHAINED: dict[str, nn.Module] = {
    "same": nn.Conv2d(4, 4, (3, 5), padding="same"),
    "valid": nn.Conv2d(4, 4, 3, padding="valid"),
    "overlapping pool": nn.MaxPool2d(3, 2, 1),
    "ceil pool": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d((2, 1)),
    "even bins": nn.AdaptiveAvgPool2d((8, 6)),
    "one bin": nn.AdaptiveMaxPool2d((1, 1)),
    "functional pool": Call(lambda maps: F.max_pool2d(maps, 3, stride=2, padding=1)),
    "functional average": Call(lambda maps: F.avg_pool2d(maps, 2)),
    "functional adaptive": Call(lambda maps: F.adaptive_avg_pool2d(maps, (12, 12))),
    "zero pad": Call(lambda maps: F.pad(maps, (2, 0, 1, 3))),
    "pooled gate": Call(lambda maps: maps * maps.mean((2, 3), keepdim=True).sigmoid()),
    "branches": Call(lambda maps: torch.cat([maps[:, :2], F.max_pool2d(maps, 5, 1, 2)[:, 2:]], 1).relu()),
    "units last": Call(lambda maps: F.layer_norm(maps.permute(0, 2, 3, 1).exp(), (4,)).permute(0, 3, 1, 2)),
    "dense layer of columns": nn.Sequential(
        torchvision.ops.Permute([0, 2, 3, 1]),
        nn.LayerNorm(4),
        nn.Linear(4, 8),
        nn.GELU(),
        nn.Linear(8, 4),
        torchvision.ops.Permute([0, 3, 1, 2]),
        nn.MaxPool2d(3, 2, 1),
    ),
    "gate of units last": Call(
        lambda maps: (maps.permute(0, 2, 3, 1) * maps.mean((2, 3), True).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    ),
    "joined units last": Call(
        lambda maps: torch.cat([maps.permute(0, 2, 3, 1), maps.permute(0, 2, 3, 1).exp()], -1).permute(0, 3, 1, 2)[
            :, ::2
        ]
    ),
    "activation": Call(lambda maps: F.gelu(maps.add(1)).clamp(max=6).contiguous()),
}


@pytest.mark.parametrize("name", CHAINED)
def test_operations_are_traced_as_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = OneOperation(CHAINED[name]).eval()
    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", _must_not_measure)
    assert_as_measured(network, "lower", "upper", (3, 24, 24))


WITH_HOLES: dict[str, nn.Module] = {
    "dilated": nn.Conv2d(4, 4, 3, stride=2, dilation=(1, 2), padding=(1, 2)),
    "slices": Call(lambda maps: maps[:, :, 1::2, 2:20:3]),
    "ellipsis": Call(lambda maps: maps[..., ::2]),
}


@pytest.mark.parametrize("name", WITH_HOLES)
def test_operations_that_skip_positions_get_the_smallest_window(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = OneOperation(WITH_HOLES[name]).eval()
    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", _must_not_measure)
    window = trace_window(network, "lower", "upper", (3, 24, 24))
    relations = measure_relations(network, "lower", "upper", (3, 24, 24))
    for axis, relation in zip((window.rows, window.columns), relations, strict=True):
        for position in range(1, relation.shape[1] - 1):
            fed = torch.nonzero(relation[:, position]).flatten().tolist()
            low, high = axis.range(position, 24)
            assert low <= fed[0]
            assert fed[-1] < high
            if high - low == axis.size:
                assert (low, high) == (fed[0], fed[-1] + 1)


def _must_not_measure(*_arguments: object) -> Window:
    raise AssertionError("this operation has a rule and must not be measured")


class Convolving(nn.Module):
    """A convolution by function, in one of the forms of calling it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2 if "groups" in form else 4, 3, 5))
        self.bias, self.form = nn.Parameter(torch.randn(4)), form

    def forward(self, maps: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        forms: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: F.conv2d(maps, weight),
            "positional": lambda: F.conv2d(maps, weight, bias, 2, 1, 1, 1),
            "tuples": lambda: F.conv2d(maps, weight, None, (2, 1), (1, 2), (1, 2)),
            "keywords": lambda: F.conv2d(maps, weight=weight, bias=bias, stride=2, padding=(0, 2)),
            "all keywords": lambda: F.conv2d(weight=weight, input=maps, padding=1),
            "same": lambda: F.conv2d(maps, weight, bias, padding="same"),
            "valid": lambda: torch.conv2d(maps, weight, bias, 1, "valid"),
            "torch": lambda: torch.conv2d(maps, weight, bias, stride=(1, 2)),
            "groups": lambda: torch.conv2d(maps, weight, bias, [1, 1], [1, 2], [1, 1], 2),
            "dilated": lambda: F.conv2d(maps, weight, dilation=2, padding=2),
            "standardised": lambda: F.conv2d(maps, weight - weight.mean((1, 2, 3), keepdim=True), bias, padding=1),
        }
        return forms[self.form]()


FORMS = (
    *("plain", "positional", "tuples", "keywords", "all keywords", "same", "valid", "torch", "groups", "dilated"),
    "standardised",
)


@pytest.mark.parametrize("form", FORMS)
def test_convolutions_by_function_are_those_of_modules(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", _must_not_measure)
    network = OneOperation(Convolving(form)).eval()
    twins = {
        "plain": nn.Conv2d(4, 4, (3, 5)),
        "positional": nn.Conv2d(4, 4, (3, 5), 2, 1),
        "tuples": nn.Conv2d(4, 4, (3, 5), (2, 1), (1, 2), (1, 2)),
        "keywords": nn.Conv2d(4, 4, (3, 5), 2, (0, 2)),
        "all keywords": nn.Conv2d(4, 4, (3, 5), padding=1),
        "same": nn.Conv2d(4, 4, (3, 5), padding="same"),
        "valid": nn.Conv2d(4, 4, (3, 5), padding="valid"),
        "torch": nn.Conv2d(4, 4, (3, 5), (1, 2)),
        "groups": nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=2),
        "dilated": nn.Conv2d(4, 4, (3, 5), dilation=2, padding=2),
        "standardised": nn.Conv2d(4, 4, (3, 5), padding=1),
    }
    asked = ("lower", "upper", (3, 20, 20))
    assert trace_window(network, *asked) == trace_window(OneOperation(twins[form]).eval(), *asked)
    if form not in ("dilated", "tuples", "keywords", "torch"):  # holes, or cut at the map between them
        assert_as_measured(network, *asked)


MEASURED: dict[str, tuple[Callable[[Tensor], Tensor], Window]] = {
    "pooling by a traced size": (lambda maps: F.avg_pool2d(maps, maps.size(3) // 4), Window.square(4, -4, 12)),
    "padding by a traced size": (lambda maps: F.pad(maps, [maps.shape[3] % 2 + 1] * 4), Window.square(1, -2, 3)),
    "float": (lambda maps: torch.flip(maps.float(), (1,)), Window.square(1, -1, 3)),
    "float32 constants": (lambda maps: torch.einsum("nchw,cd->ndhw", maps, torch.ones(4, 4)), Window.square(1, -1, 3)),
    "slices by a traced size": (
        lambda maps: maps[:, :, : maps.shape[2] // 2, : maps.shape[3] // 2],
        Window.square(1, -1, 3),
    ),
    "interpolated": (lambda maps: F.interpolate(maps, scale_factor=0.5), Window.square(2, -2, 5)),
    "unpooled": (lambda maps: F.max_pool2d_with_indices(maps, 3, 1, 1)[0], Window.square(1, -2, 5)),
    "dynamic kernel": (
        lambda maps: F.conv2d(maps, maps.mean((0, 2, 3))[:, None, None, None].expand(4, 4, 3, 3), padding=1),
        Window.whole(),
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_traced_arguments_and_float32_are_measured(name: str) -> None:
    torch.manual_seed(0)
    operation, expected = MEASURED[name]
    assert trace_window(OneOperation(Call(operation)).eval(), "lower", "upper", (3, 16, 16)) == expected


def _one_hot(maps: Tensor) -> Tensor:
    return F.one_hot(maps.argmax(1), 4).permute(0, 3, 1, 2).to(maps.dtype)


LOSING: dict[str, Callable[[Tensor], Tensor]] = {
    "sign": torch.sign,
    "where": lambda maps: torch.where(maps > 0, 1.0, -1.0).to(maps.dtype),
    "heaviside": lambda maps: torch.heaviside(maps, torch.zeros((), dtype=maps.dtype)),
    "fmax": lambda maps: torch.fmax(maps, torch.zeros_like(maps)),
    "fmin": lambda maps: torch.fmin(maps, torch.ones_like(maps)),
    "nan_to_num": torch.nan_to_num,
    "one hot": _one_hot,
    "greater": lambda maps: (maps > 0.1).to(maps.dtype),
    "less": lambda maps: maps.lt(0).double().to(maps.dtype),
    "equal": lambda maps: (maps.round() == 0).to(maps.dtype),
    "round": lambda maps: (maps * 3).round().nan_to_num(),
    "cast": lambda maps: maps.clamp(-100, 100).int().to(maps.dtype),
    "clamp": lambda maps: maps.clamp(0, 1).nan_to_num(),
    "masked fill": lambda maps: torch.ones_like(maps).masked_fill(maps > 0, 0),
    "sort of units": lambda maps: maps.sort(dim=1).indices.to(maps.dtype),
    "top of units": lambda maps: torch.zeros_like(maps).scatter(1, maps.topk(2, dim=1).indices, 1.0),
    "isfinite": lambda maps: torch.where(maps.isfinite(), maps, torch.zeros_like(maps)),
    "signbit": lambda maps: torch.signbit(maps).to(maps.dtype),
    "bucketize": lambda maps: torch.bucketize(maps, torch.tensor([-0.5, 0.0, 0.5], dtype=maps.dtype)).to(maps.dtype),
    "nansum": lambda maps: torch.nansum(maps, 1, keepdim=True).expand(-1, 4, -1, -1).contiguous(),
    "logical": lambda maps: torch.logical_and(maps > 0, maps < 2).to(maps.dtype),
    "half NaN is lost": lambda maps: torch.cat([maps[:, :2], maps[:, 2:].sign()], 1),
}


@pytest.mark.parametrize("name", LOSING)
def test_what_loses_nan_is_measured_all_the_same(name: str) -> None:
    torch.manual_seed(0)
    network = OneOperation(Call(LOSING[name])).eval()
    assert measure_window(network, "lower", "upper", (3, 12, 12)) == Window.square(1, -1, 3)
    assert trace_window(network, "lower", "upper", (3, 12, 12)) == Window.square(1, -1, 3)


def test_windows_between_two_losses_of_nan() -> None:
    torch.manual_seed(0)
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 5, stride=2, padding=2)
    network = OneOperation(nn.Sequential(Call(torch.sign), first, Call(torch.sign), second, Call(_one_hot))).eval()
    assert trace_window(network, "lower", "upper", (3, 24, 24)) == Window.square(2, -5, 11)


def test_upstream_but_never_fed_is_refused() -> None:
    torch.manual_seed(0)
    network = OneOperation(Call(lambda maps: torch.zeros_like(maps.sign()))).eval()
    words = r"'lower' feeds 'upper' by the network's operations, yet no change was seen there; choose other layers"
    with pytest.raises(NetworkError, match=words):
        trace_window(network, "lower", "upper", (3, 12, 12))


UNRULED: dict[str, tuple[nn.Module, Window]] = {
    "reflection": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), Window.square(1, -2, 5)),
    "transposed": (nn.ConvTranspose2d(4, 4, 2, 2), Window.whole()),
    "channel shuffle": (
        Call(lambda maps: maps.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)),
        Window.square(1, -1, 3),
    ),
    "chunks": (Call(lambda maps: torch.cat(maps.chunk(2, 1)[::-1], 1)), Window.square(1, -1, 3)),
    "transposed axes": (Call(lambda maps: maps.transpose(2, 3).exp().transpose(2, 3)), Window.square(1, -1, 3)),
    "pooled where units are last": (
        Call(lambda maps: F.avg_pool2d(maps.permute(0, 2, 3, 1), 1).permute(0, 3, 1, 2)),
        Window.square(1, -1, 3),
    ),
}


@pytest.mark.parametrize("name", [name for name in UNRULED if name != "transposed"])
def test_operations_without_a_rule_are_measured(name: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    operation, expected = UNRULED[name]
    with caplog.at_level("INFO", logger="workflows.networks.receptive_fields"):
        window = trace_window(OneOperation(operation).eval(), "lower", "upper", (3, 16, 16))
    assert window == expected
    assert "is measured" in caplog.text


def test_upsampling_gets_a_window_that_covers_what_is_measured() -> None:
    torch.manual_seed(0)
    network = OneOperation(UNRULED["transposed"][0]).eval()
    window = trace_window(network, "lower", "upper", (3, 8, 8))
    rows, _ = measure_relations(network, "lower", "upper", (3, 8, 8))
    for position in range(16):
        low, high = window.rows.range(position, 8)
        assert bool(rows[low:high, position].any())
        assert not bool(rows[:low, position].any() or rows[high:, position].any())


def test_convnext_is_traced_as_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    settings = [
        torchvision.models.convnext.CNBlockConfig(8, 16, 1),
        torchvision.models.convnext.CNBlockConfig(16, None, 1),
    ]
    network = torchvision.models.ConvNeXt(settings, num_classes=3, layer_scale=1.0).eval()
    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", _must_not_measure)
    for lower, upper in (("add1", "add2"), ("features.0.0", "add1"), ("add2", "output")):
        assert_as_measured(network, lower, upper, (3, 96, 96))


def test_a_layer_whose_units_lie_on_the_last_axis_is_refused() -> None:
    network = torchvision.models.convnext_tiny(weights=None).eval()
    words = r"features\.1\.0\.block\.3 gives \(N, H, W, D\), its units lie on the last axis; name the permutation"
    with pytest.raises(NetworkError, match=words):
        trace_window(network, None, "features.1.0.block.3", (3, 64, 64))
    listed = {layer.name for layer in list_layers(network, (3, 64, 64))}
    assert "features.1.0.block.3" not in listed
    assert {"features.1.0.block.0", "features.1.0.add"} <= listed


def test_a_network_that_cannot_be_traced_is_measured() -> None:
    torch.manual_seed(0)
    network = Branching().eval()
    assert trace_window(network, "conv1", "conv2", (3, 16, 16)) == Window.square(1, -1, 3)
    assert trace_window(network, "relu", "relu_1", (3, 16, 16)) == Window.square(1, -1, 3)
    assert trace_window(network, None, "conv2", (3, 16, 16)) == Window.square(2, -3, 7)
    assert trace_window(network, "conv2", "output", (3, 16, 16)) == Window.whole()
    with pytest.raises(NetworkError, match="'conv2' is not upstream of 'conv1'"):
        trace_window(network, "conv2", "conv1", (3, 16, 16))


def test_windows_of_opaque_modules_are_measured_others_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = PartlyTraceable().eval()
    assert trace_window(network, "conv1", "conv2", (3, 16, 16)) == Window.square(2, -4, 10)
    assert trace_window(network, "pooled.conv", "conv2", (3, 16, 16)) == Window.square(1, -1, 3)
    monkeypatch.setattr("workflows.networks.receptive_fields.measure_window", _must_not_measure)
    assert trace_window(network, None, "add1", (3, 16, 16)) == Window.square(1, -1, 3)
    assert trace_window(network, "pooled", "conv2", (3, 16, 16)) == Window.square(1, -1, 3)
    assert trace_window(network, "conv2", "output", (3, 16, 16)) == Window.whole()


def test_branches_with_different_strides_are_measured() -> None:
    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lower, self.narrow = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, stride=2)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.lower(images)
            return (self.narrow(maps)[:, :, :3, :3] + maps[:, :, :3, :3]).mean((2, 3))

    network = Uneven().eval()
    graph = trace_network(network)
    assert graph.aliases["add1"] == "add"
    window = trace_window(network, "lower", "add1", (3, 9, 9))
    rows, _ = measure_relations(network, "lower", "add1", (3, 9, 9))
    for position in range(3):
        low, high = window.rows.range(position, 9)
        fed = torch.nonzero(rows[:, position]).flatten()
        assert low <= int(fed.min())
        assert int(fed.max()) < high


@pytest.mark.parametrize(("lower", "upper"), [("add4", "add2"), ("output", "add2"), ("layer2.0.conv1", "layer1.2.add")])
def test_layers_in_the_wrong_order_are_refused(lower: str, upper: str) -> None:
    network = resnet20_cifar()
    with pytest.raises(NetworkError, match=r"is not upstream of .*lowest first"):
        trace_window(network, lower, upper, (3, 32, 32))
    with pytest.raises(NetworkError, match=r"is not upstream of .*lowest first"):
        measure_window(network, lower, upper, (3, 32, 32))


def test_wrong_names_and_images_are_refused() -> None:
    network = resnet20_cifar()
    with pytest.raises(NetworkError, match="no layer 'add99'; the nearest are add9"):
        trace_window(network, "add2", "add99", (3, 32, 32))
    with pytest.raises(NetworkError, match=r"cannot take images of .* \(4, 32, 32\)"):
        trace_window(network, "add2", "add4", (4, 32, 32))


@given(
    stride=st.integers(1, 3),
    offset=st.integers(-12, 3),
    size=st.integers(1, 15),
    extent=st.integers(24, 40),
)
def test_a_measured_window_is_found_again(stride: int, offset: int, size: int, extent: int) -> None:
    window = AxisWindow(stride=stride, offset=offset, size=size)
    upper = -(-extent // stride)
    relation = torch.zeros((extent, upper), dtype=torch.bool)
    for position in range(upper):
        low, high = window.range(position, extent)
        relation[low:high, position] = True
    found = fit_axis(relation)
    for position in range(upper):
        if window.range(position, extent)[0] < window.range(position, extent)[1]:
            assert found.range(position, extent) == window.range(position, extent)


def test_rules_refuse_what_they_cannot_read() -> None:
    from workflows.networks.window_rules import _RULES_OF_FUNCTIONS as rules

    shape = torch.Size((1, 4, 10, 10))
    refused: list[tuple[str, dict[str, object]]] = [
        ("pad", {"pad": (1, 1), "mode": "reflect"}),
        ("getitem", {"index": (0, slice(None))}),
        ("mean", {"dim": 1}),
        ("adaptive_avg_pool2d", {}),
    ]
    for name, arguments in refused:
        call: Callable[..., Window] = rules[name]
        with pytest.raises(UnknownWindow):
            call(arguments, shape, torch.Size((1, 4, 3, 3)), Window.identity())
