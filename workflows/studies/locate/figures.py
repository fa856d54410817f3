"""What the figures of a part are drawn from: votes on some objects, and the errors of all methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gmm_ops.explanatory.and_or_graph import voted_place
from workflows.asking.study import StudyContext
from workflows.data.network_inputs import ObjectInputs
from workflows.report.lettering import short_name
from workflows.report.location_figures import ErrorCurve, VotedObject, draw_error_curves, draw_votes
from workflows.report.selection_figures import Paths
from workflows.runtime.patience import patiently
from workflows.storage.names import slug
from workflows.studies.locate.request import Sought
from workflows.studies.locate.rows import NEAR, Located
from workflows.studies.locate.voters import CONTROLS, Method, Voters, votes_on

_SHOWN = 7
"""Objects of a figure."""


def draw_figures(study: StudyContext, sought: Sought, voters: Sequence[Voters], found: Sequence[Located]) -> None:
    """Votes of the first set on some objects; where the part is known on others, the errors of all sets."""
    heading = f"{study.settings.name}, {short_name(sought.class_name)}: {sought.part}"
    annotated = sought.sets[0]
    tested = np.flatnonzero(sought.tested(annotated))
    others = np.setdiff1d(np.arange(len(sought.known)), annotated.rows)
    shown = _evenly(tested if len(tested) else others, _SHOWN)
    pictures = _pictures(study, sought, np.unique(np.concatenate([annotated.rows, shown])))
    rows = {"annotated": [_annotated(sought, place, pictures) for place in range(len(annotated.rows))][:_SHOWN]}
    for one in voters:
        rows[_label(one.method, "\n")] = list(_voted(sought, one, shown.tolist(), pictures))
    below = "the annotated objects, and where their templates see the part on others, evenly over all"
    draw_votes(rows, f"{heading} found by votes", below, _paths(study, sought, "votes"))
    if len(tested):
        below = f"learned on {sought.learn} photos, {len(sought.sets)} sets of {len(annotated.rows)} annotated objects"
        below += "; dashed: controls"
        draw_error_curves(list(_curves(sought, found)), NEAR, f"{heading}, how far off", below,
                          _paths(study, sought, "errors"))  # fmt: skip


def _paths(study: StudyContext, sought: Sought, name: str) -> Paths:
    full = f"{name}-{sought.label}-{slug(sought.part)}"
    return study.figure("png", full), study.figure("svg", full)


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    places = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)
    return np.asarray(rows[np.unique(places)])


def _pictures(study: StudyContext, sought: Sought, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Turned objects by their number."""
    turned, size = sought.turned, (study.plan.input_height, study.plan.input_width)
    inputs, objects = ObjectInputs(study.settings, study.folder, size), turned.objects.only(rows)
    crops = patiently(lambda: list(inputs.crops(objects)), *study.settings.runtime.patience)
    return {
        row: crop[:, ::-1] if turned.signs[row] < 0 else crop for row, crop in zip(rows.tolist(), crops, strict=True)
    }


def _annotated(sought: Sought, place: int, pictures: dict[int, np.ndarray]) -> VotedObject:
    row, part = int(sought.sets[0].rows[place]), sought.sets[0].parts[place].tolist()
    label = f"object {row}, image {sought.turned.objects.images[row]}"
    return VotedObject(pictures[row], label, (part[0], part[1]))


def _voted(
    sought: Sought, voters: Voters, rows: Sequence[int], pictures: dict[int, np.ndarray]
) -> Iterator[VotedObject]:
    templates = voters.templates(sought.sets[0])
    for row in rows:
        votes = votes_on(voters, templates, row)
        at = voted_place(votes).numpy()
        label = f"object {row}, image {sought.turned.objects.images[row]}"
        yield VotedObject(pictures[row], label, _point(sought.known[row]), _point(at), votes.numpy())


def _point(place: np.ndarray) -> tuple[float, float] | None:
    return None if np.isnan(place).any() else (float(place[0]), float(place[1]))


def _label(method: Method, between: str = ", ") -> str:
    told = [] if method.voters is None else method.voters.split(", ")
    return between.join([method.name, *told])


def _curves(sought: Sought, found: Sequence[Located]) -> Iterator[ErrorCurve]:
    for method in dict.fromkeys(one.method for one in found):
        own = [one for one in found if one.method == method]
        errors = [np.nan_to_num(one.errors(sought)[sought.tested(sought.sets[one.triple])], nan=1.0) for one in own]
        yield ErrorCurve(_label(method), method.name in CONTROLS, errors)
