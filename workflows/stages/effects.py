"""words + network -> effects/<scope>/<shard>.parquet: what taking out each word would cost each validation image.

Only where ``mine.criterion`` asks for graphs by effect. One pass serves all scopes, layers and classes.
"""

from __future__ import annotations

from workflows.context import StageContext
from workflows.plan.scopes import read_scopes
from workflows.storage.fields import EFFECT
from workflows.storage.images_table import ImageColumns
from workflows.words.effects_worker import EffectsWorker
from workflows.words.scope_effects import effect_images
from workflows.words.scope_images import names_by_shard, shards_of
from workflows.words.shard_names import map_names_left, names_left


def run(context: StageContext) -> None:
    """The stage: nothing without graphs by effect; else every shard with validation images goes to an actor."""
    settings, folder = context.settings, context.folder
    if EFFECT not in settings.mine.criteria:
        context.begin(0)
        return
    plan, scopes = context.plan(), read_scopes(folder)
    images = ImageColumns.read(folder, 0, plan.images)
    size = settings.extract.images_per_shard
    wanted = names_by_shard((scope.name, shards_of(effect_images(scope, plan, images), size)) for scope in scopes)
    done = context.begin(len(wanted))
    context.progress.start(len(wanted), len(wanted) - len(names_left(wanted, done)))
    inputs = {"settings": context.worker_settings(), "plan": plan, "folder": folder, "scopes": scopes}
    map_names_left(context, plan, EffectsWorker, inputs, wanted)
