"""Rows of the tables: the voters of every template, the part on every object, errors by set of annotated objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from gmm_ops.explanatory.and_or_graph import Template, voted_place
from gmm_ops.explanatory.pattern_measures import normalised_errors
from workflows.storage.tables import to_table
from workflows.studies.locate.request import Sought
from workflows.studies.locate.voters import Method, Voters, controls, votes_on

NEAR = 0.1
"""Share of the diagonal within which a part counts as found (EG, after Shih et al.)."""


@dataclass(frozen=True, eq=False)
class Located:
    """Where one method sees the part on all objects, by one set of annotated objects.

    Attributes:
        triple: number of the set.
        method: who.
        places: (n, 2) row and column on the turned object; NaN where nothing votes.
        votes: (n,) height of the vote map there; None: a control.
    """

    triple: int
    method: Method
    places: Float[np.ndarray, "n 2"]
    votes: Float[np.ndarray, " n"] | None = None

    def errors(self, sought: Sought) -> Float[np.ndarray, " n"]:
        """Over the diagonals of the objects; NaN where the part is not known, or was not found."""
        places, known = torch.from_numpy(self.places), torch.from_numpy(sought.known)
        found: np.ndarray = normalised_errors(places, known, torch.from_numpy(sought.turned.objects.sizes)).numpy()
        return found


def located_by(
    method: Method, voters: Sequence[tuple[Voters, Sequence[Sequence[Template]]]], objects: int
) -> Iterator[Located]:
    """One for every set of annotated objects, by the votes of some voters together, each with its templates.

    Objects are the outer loop, for they are read in blocks.
    """
    sets = len(voters[0][1])
    places, votes = np.zeros((sets, objects, 2)), np.zeros((sets, objects))
    for row in range(objects):
        for number in range(sets):
            maps = [votes_on(one, templates[number], row) for one, templates in voters]
            voted = torch.stack(maps).mean(dim=0)
            places[number, row] = voted_place(voted).numpy()
            votes[number, row] = float(voted.max())
    return (Located(number, method, *found) for number, found in enumerate(zip(places, votes, strict=True)))


def located_by_controls(sought: Sought, features: Float[np.ndarray, "n D"]) -> Iterator[Located]:
    """Those of all sets."""
    for number, one in enumerate(sought.sets):
        for method, places in controls(one, features):
            yield Located(number, method, places)


def _key(sought: Sought, triple: int, method: Method, length: int) -> dict[str, Any]:
    one = {"class": sought.label, "class_name": sought.class_name, "part": sought.part, "learn": sought.learn}
    one |= {"triple": triple, "method": method.name, "voters": method.voters, "network": sought.network}
    return {name: [value] * length for name, value in one.items()}


def template_rows(sought: Sought, voters: Voters, templates: Sequence[Sequence[Template]]) -> Iterator[pa.Table]:
    """Rows of templates.parquet of some voters."""
    for triple, (annotated, some) in enumerate(zip(sought.sets, templates, strict=True)):
        for row, one in zip(annotated.rows.tolist(), some, strict=True):
            count = len(one.voters)
            named = {name: values if values is not None else pa.nulls(count, pa.int32())
                     for name, values in voters.columns(one.voters.numpy()).items()}  # fmt: skip
            rows = {
                **_key(sought, triple, voters.method, count),
                "object": np.full(count, row),
                "image": np.full(count, sought.turned.objects.images[row]),
                **named,
                "dy": one.displacements[:, 0].float().numpy(),
                "dx": one.displacements[:, 1].float().numpy(),
                "weight": voters.weights(one, row).float().numpy(),
            }
            yield to_table(rows, "templates")


def location_rows(sought: Sought, found: Located) -> pa.Table:
    """Rows of locations.parquet."""
    turned, count = sought.turned, len(sought.known)
    rows, annotated = np.arange(count), sought.sets[found.triple]
    shown = turned.objects.on_photo(rows, found.places, turned.signs)
    true = turned.objects.on_photo(rows, sought.known, turned.signs)
    real = {"y": shown[:, 0], "x": shown[:, 1], "true_y": true[:, 0], "true_x": true[:, 1]}
    real |= {"error": found.errors(sought)}
    real |= {"votes": np.full(count, np.nan) if found.votes is None else found.votes}
    return to_table(
        {
            **_key(sought, found.triple, found.method, count),
            "object": rows,
            "image": turned.objects.images,
            **{name: pa.array(values, mask=np.isnan(values)) for name, values in real.items()},
            "annotated": np.isin(rows, annotated.rows),
            "tested": sought.tested(annotated),
        },
        "locations",
    )


def error_row(sought: Sought, found: Located) -> dict[str, Any] | None:
    """The row of location_errors.parquet; None where no object is tested. What is not found is a diagonal off."""
    tested = sought.tested(sought.sets[found.triple])
    if not tested.any():
        return None
    errors = np.nan_to_num(found.errors(sought)[tested], nan=1.0)
    one = {name: value for name, [value] in _key(sought, found.triple, found.method, 1).items()}
    return {**one, "objects": len(errors), "distance": float(errors.mean()), "near": float((errors <= NEAR).mean())}
