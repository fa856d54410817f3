"""The stages of a run in order, and what each writes, relative to the run folder; each artefact has one writer.

images.parquet alone is written twice: the index stage writes what is known before a picture is read, the extract
stage completes it with predictions.
"""

ARTEFACTS: dict[str, tuple[str, ...]] = {
    "index": ("images.parquet", "plan.json"),
    "train": ("weights.pt",),
    "extract": ("activations", "predictions"),
    "fit": ("scopes.json", "mixtures", "history.parquet"),
    "errors": ("decisions", "decisions.parquet", "errors.parquet"),
    "words": ("words", "path_parts"),
    "paths": ("paths.parquet", "transitions.parquet", "triage.parquet", "junctions.parquet"),
    "count": ("cooccurrence", "words.parquet", "exemplars.parquet", "layers.parquet"),
    "mine": ("nodes.parquet", "edges.parquet", "heatmaps.parquet"),
    "draw": ("figures", "pictures"),
}
