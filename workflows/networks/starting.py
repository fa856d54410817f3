"""What training begins from: a network at random, or with weights of which its head alone is left at random.

The head is what the weights do not give, and the last of the network's parameters. Trained alone, it is cut off: the
rest runs once over every image, and the head learns from what that gives.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from workflows.errors import NetworkError, SettingsError
from workflows.networks.loading import build_network, own_names, read_state_dict, refuse_no_numbers
from workflows.networks.naming import shortened
from workflows.networks.tracing import UntraceableNetwork, trace_network
from workflows.settings import NetworkSettings, TrainingSettings

_FIELD = "training.start"


@dataclass(frozen=True)
class StartedNetwork:
    """A network that is to be trained.

    Attributes:
        network: in evaluation mode; frozen, as ``build_network`` gives it.
        head: parameters that begin at random though a start is given; none without a start.
        told: what the user should know of the start; empty without one.
    """

    network: nn.Module
    head: tuple[str, ...] = ()
    told: str = ""


def started_network(settings: NetworkSettings, training: TrainingSettings, seed: int) -> StartedNetwork:
    """Build the network, at random by ``seed``, and give it what ``training.start`` has of it.

    Raises:
        NetworkError: the network cannot be built, or the start is no state dict, or one of another network: it gives
            nothing, or not what comes before something that it gives; or it has NaN.
        SettingsError: the head is to be trained, and the start leaves none.
    """
    network = build_network(settings, seed)
    if not training.start:
        return StartedNetwork(network)
    expected = network.state_dict()
    state = own_names(read_state_dict(training.start, _FIELD), expected)
    given = [key for key, value in expected.items() if key in state and state[key].shape == value.shape]
    _refuse_other_network(training.start, expected, state, given)
    used = {key: state[key] for key in given}
    refuse_no_numbers(used, training.start, _FIELD)
    network.load_state_dict(used, strict=False)
    parameters = dict(network.named_parameters())
    head = tuple(name for name in parameters if name not in used)
    if training.trains == "head" and not head:
        raise SettingsError(
            f"training.trains = 'head': must have parameters that training.start does not give, got none, for "
            f"{training.start!r} gives all {len(parameters)}; set training.trains = 'all', or another number of "
            "classes in network.arguments"
        )
    return StartedNetwork(network, head, _told(training, len(parameters), head, len(state) - len(used)))


def _refuse_other_network(
    source: str, expected: dict[str, Tensor], state: dict[str, Tensor], given: Collection[str]
) -> None:
    """A start gives the network from its first parameter to its head, and holds nothing else before its own last."""
    keys = [key for key in expected if key in given or not key.endswith("num_batches_tracked")]
    last = max((place for place, key in enumerate(keys) if key in given), default=-1)
    lacking = [_difference(key, expected, state) for key in keys[: last + 1] if key not in given]
    own = list(state)
    strange = [key for key in own[: max((own.index(key) for key in given), default=0)] if key not in expected]
    if last < 0:
        lacking = [_difference(key, expected, state) for key in keys]
    if lacking or strange:
        told = [f"lacking ({len(lacking)}): {shortened(lacking)}"] if lacking else []
        told += [f"unexpected ({len(strange)}): {shortened(strange)}"] if strange else []
        raise NetworkError(
            f"{_FIELD} {source!r}: must give every parameter of the network but its last ones, the head, got keys "
            f"{'; '.join(told)}; give weights of this network, or change network.name or network.arguments"
        )


def _difference(key: str, expected: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    if key not in state:
        return key
    return f"{key} is {tuple(state[key].shape)}, the network has {tuple(expected[key].shape)}"


def _told(training: TrainingSettings, parameters: int, head: Collection[str], unused: int) -> str:
    rest = "" if training.trains == "all" else ", and the head alone is trained"
    left = f"; {shortened(head)} {'begins' if len(head) == 1 else 'begin'} at random" if head else ""
    more = f"; {unused} of its tensors are not used" if unused else ""
    return (
        f"training.start: {parameters - len(head)} of {parameters} parameters are those of {training.start!r}"
        f"{left}{rest}{more}"
    )


@dataclass(frozen=True)
class CutNetwork:
    """A network in two: a frozen part, and its head, which shares its parameters with the network."""

    frozen: fx.GraphModule
    head: fx.GraphModule

    @torch.inference_mode()
    def features(self, images: Float[Tensor, "N C H W"], batch: int = 50) -> Float[Tensor, "N ..."]:
        """What the head reads of every image."""
        return torch.cat([self.frozen(some.contiguous()) for some in images.split(batch)])


def cut_head(network: nn.Module, head: Collection[str]) -> CutNetwork:
    """Cut a network before the first operation that uses a parameter of its head.

    Args:
        network: in evaluation mode.
        head: names of parameters.

    Raises:
        NetworkError: its operations cannot be traced, or its head reads several values, or others' parameters.
    """
    title = f"network {type(network).__name__}"
    remedy = "set training.trains = 'all'"
    try:
        traced = trace_network(network)
    except UntraceableNetwork as error:
        raise NetworkError(f"{title}: must be traceable for training.trains = 'head' ({error}); {remedy}") from error
    order = list(traced.module.graph.nodes)
    behind: set[fx.Node] = set()
    for node in order:
        if node.op != "output" and (_uses(traced.module, node, head) or behind & set(node.all_input_nodes)):
            behind.add(node)
    read = {source for node in behind for source in node.all_input_nodes} - behind
    own = {source for source in read if source.op == "get_attr"}
    if len(read - own) != 1 or traced.result not in behind:
        raise NetworkError(
            f"{title}: must have a head that reads one layer for training.trains = 'head', got one that reads "
            f"{len(read - own)}; {remedy}"
        )
    (seam,) = read - own
    frozen, rest = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in order[: order.index(seam) + 1]:
        if node not in behind:
            copies[node] = frozen.node_copy(node, lambda one: copies[one])
    frozen.output(copies[seam])
    within = {seam: rest.placeholder("features")}
    for node in order:
        if node in behind or node in own:
            within[node] = rest.node_copy(node, lambda one: within[one])
    rest.output(within[traced.result])
    cut = CutNetwork(fx.GraphModule(traced.module, frozen), fx.GraphModule(traced.module, rest))
    others = sorted({name for name, _ in cut.head.named_parameters()} - set(head))
    if others:
        raise NetworkError(
            f"{title}: must have a head without the parameters that training.start gives for training.trains = 'head', "
            f"got {shortened(others)} behind it; {remedy}"
        )
    return cut


def _uses(module: fx.GraphModule, node: fx.Node, head: Collection[str]) -> bool:
    """Whether an operation is of a module, or reads a parameter, of the head."""
    if node.op == "get_attr":
        return str(node.target) in head
    return node.op == "call_module" and any(
        f"{node.target}.{name}" in head for name, _ in module.get_submodule(str(node.target)).named_parameters()
    )
