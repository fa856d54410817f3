"""The rest of a network from changed layers: what would have come out, had a layer said something else.

    network = Interventions(units)
    for pause in network.pauses(images, [("layer2.0.conv1",), ("layer2.0.conv1", "layer2.0.conv2")]):
        logits = pause.rest({"layer2.0.conv1": silenced(some, means)})

What no changed layer feeds runs once, however many changes are tried. With no change the logits are those of the
network, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, fx

from workflows.errors import NetworkError
from workflows.networks.receptive_fields import downstream_of
from workflows.networks.unit_layers import UnitNetwork

Change = Callable[[Float[Tensor, "N D H W"]], Float[Tensor, "N D H W"]]
"""From what a layer says to what it says instead; it leaves what it is given alone."""

Values = dict[fx.Node, Any]


def silenced(units: Int[Tensor, " k"], instead: Float[Tensor, " D"] | float = 0.0) -> Change:
    """Give some units one value at every position: zero, or each its own, such as its mean over images."""

    def change(maps: Tensor) -> Tensor:
        changed = maps.clone()
        if isinstance(instead, Tensor):
            changed[:, units] = instead[units].to(maps)[:, None, None]
        else:
            changed[:, units] = instead
        return changed

    return change


def replaced(instead: Float[Tensor, "#N D H W"]) -> Change:
    """Give a whole map, one for each image or the same for all."""
    return lambda maps: instead.to(maps).expand_as(maps)


def replaced_columns(where: Bool[Tensor, "N H W"], instead: Float[Tensor, "#N D #H #W"]) -> Change:
    """Give other columns at some positions: a column for each position, or one (1, D, 1, 1) for all."""
    return lambda maps: torch.where(where[:, None], instead.to(maps), maps)


class Interventions:
    """Runs a network up to a layer, and the rest with changes.

    Args:
        network: traced; on the device and in the precision that images come in.
    """

    def __init__(self, network: UnitNetwork) -> None:
        self._network = network
        self._operations = fx.Interpreter(network.module, garbage_collect_values=False)
        self._order = [node for node in network.module.graph.nodes if node in network.needed]
        self._place = {node: place for place, node in enumerate(self._order)}
        self._fed = {network.input, *downstream_of(network.input)}
        self._last_use = {
            node: max((self._place[user] for user in node.users if user in self._place), default=len(self._order))
            for node in self._order
        }

    @torch.inference_mode()
    def __call__(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N M"]:
        """Logits of the network as it is."""
        values = self._begin(images)
        self._run(values, self._order, forget=True)
        return values[self._network.result]

    @torch.inference_mode()
    def pauses(self, images: Float[Tensor, "N C H W"], groups: Collection[Sequence[str]]) -> Iterator[Pause]:
        """Stop before the rest of the network for each group of layers that are to be changed together.

        Pauses come in execution order, each with what the rest needs, and no more.

        Raises:
            NetworkError: the network has no such layer.
        """
        nodes = {
            tuple(group): [self._network.nodes[self._network.layer(name, "layers").name] for name in group]
            for group in groups
        }
        values, done = self._begin(images), 0
        for group in sorted(nodes, key=lambda group: min(self._place[node] for node in nodes[group])):
            stop = 1 + min(self._place[node] for node in nodes[group])
            self._run(values, self._order[done:stop], forget=True)
            done = max(done, stop)
            yield self._pause(values, group, nodes[group], done)

    def _pause(self, values: Values, group: tuple[str, ...], changed: Sequence[fx.Node], done: int) -> Pause:
        """Branches beside the changed layers are finished here, once for all changes."""
        behind = set().union(*(self._network.downstream(self._network.names[node]) for node in changed))
        rest = tuple(one for one in self._order if one in behind)
        held = dict(values)
        self._run(held, [one for one in self._order[done:] if one not in behind], forget=False)
        wanted = {source for one in rest for source in one.all_input_nodes} | set(changed)
        return Pause(group, {one: held[one] for one in wanted - behind}, rest, self)

    def _begin(self, images: Tensor) -> Values:
        first, *others = [node for node in self._network.module.graph.nodes if node.op == "placeholder"]
        return {first: images, **{node: node.args[0] for node in others}}

    def _run(
        self, values: Values, order: Collection[fx.Node], forget: bool, changes: Mapping[fx.Node, Change] | None = None
    ) -> None:
        self._operations.env = values
        for node in order:
            if node not in values:
                values[node] = self._operations.run_node(node)
            if changes and node in changes:
                values[node] = changes[node](values[node])
            for source in node.all_input_nodes if forget else ():
                if self._last_use[source] <= self._place[node] and source is not self._network.result:
                    values.pop(source, None)

    def known(self, pause: Pause, layer: str) -> Tensor | None:
        """See ``Pause.value``."""
        return pause.values.get(self._network.nodes[self._network.layer(layer, "layers").name])

    @torch.inference_mode()
    def resume(
        self,
        pause: Pause,
        changes: Mapping[str, Change],
        rows: Int[Tensor, " N"] | None = None,
        layer: str | None = None,
    ) -> Tensor:
        """The logits, or what a layer says, behind a pause; see ``Pause.rest`` and ``Pause.upto``."""
        nodes = {self._network.nodes[self._network.layer(name, "changes").name]: name for name in changes}
        for node, name in nodes.items():
            if node not in pause.values and node not in pause.behind:
                raise NetworkError(
                    f"changes: must be of {', '.join(pause.layers)} or a layer behind, got {name!r}; pause for all "
                    "layers that are changed together"
                )
        values = dict(pause.values) if rows is None else self._taken(pause.values, rows)
        for node in nodes.keys() & values.keys():
            values[node] = changes[nodes[node]](values[node])
        wanted = self._network.result if layer is None else self._node_behind(pause, layer)
        order = [node for node in pause.behind if self._place[node] <= self._place[wanted]]
        self._run(values, order, forget=True, changes={node: changes[name] for node, name in nodes.items()})
        return values[wanted]

    def _taken(self, values: Values, rows: Int[Tensor, " N"]) -> Values:
        """Values of as many images, in another order or repeated; those that no image feeds stay."""
        return {
            node: value[rows.to(value.device)] if isinstance(value, Tensor) and node in self._fed else value
            for node, value in values.items()
        }

    def _node_behind(self, pause: Pause, layer: str) -> fx.Node:
        node = self._network.nodes[self._network.layer(layer, "layer").name]
        if node not in pause.behind:
            raise NetworkError(
                f"layer: must be a layer behind {', '.join(pause.layers)}, got {layer!r}; ask for its value where it "
                "is known"
            )
        return node


@dataclass(frozen=True, eq=False)
class Pause:
    """A network that has come to the layers of a group.

    Attributes:
        layers: their names, as they were asked for.
        values: what is known there, by operation.
        behind: operations that are still to run.
    """

    layers: tuple[str, ...]
    values: Values = field(repr=False)
    behind: tuple[fx.Node, ...] = field(repr=False)
    _network: Interventions = field(repr=False)

    def value(self, layer: str) -> Float[Tensor, "N D H W"] | None:
        """What a layer says, as far as it is known here; None where it still has to run."""
        return self._network.known(self, layer)

    def rest(self, changes: Mapping[str, Change], rows: Int[Tensor, " N"] | None = None) -> Float[Tensor, "N M"]:
        """Logits with changes at these layers and at those behind them, by name; without any, the network's own.

        Args:
            changes: by layer; each is given what the images of ``rows`` say.
            rows: (N,) images by their place in the batch, as many as it has, of which some may be there several times:
                many changes of few images are one pass. None: all as they are.

        Raises:
            NetworkError: a layer lies before these or beside them.
        """
        return self._network.resume(self, changes, rows)

    def upto(
        self, layer: str, changes: Mapping[str, Change], rows: Int[Tensor, " N"] | None = None
    ) -> Float[Tensor, "N D H W"]:
        """What a layer behind these says with the changes; see ``rest``. What lies behind it is not run."""
        return self._network.resume(self, changes, rows, layer)
