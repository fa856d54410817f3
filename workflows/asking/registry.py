"""The studies: what may be asked of a finished run, in any order, each resumable by itself.

A new study is one entry of ``STUDIES``, one folder ``workflows/studies/<name>`` and one file
``workflows/cli/<name>.py``. What all of them have is ``workflows.asking.study``. One study never imports another; it
may read its tables.
"""

from __future__ import annotations

from workflows.storage.study_folder import Study

STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        Study("sweep", "how many words, and by which loss", ("sweep",)),
        Study("boxes", "do words sit on objects", ("boxes",)),
        Study(
            "dissect",
            "which concepts do units and words detect",
            ("units", "unit_concepts", "word_concepts", "word_units", "unions"),
            version=2,
        ),
        Study(
            "relevance",
            "which units matter to a class",
            ("relevance", "relevance_completeness", "relevance_agreement"),
            version=2,
        ),
        Study("ablate", "what breaks without some units", ("ablations", "unit_classes")),
        Study(
            "resample",
            "which units matter for a decision, and which patches they see",
            ("selections", "selection_means", "secondary", "selection_epochs"),
        ),
        Study(
            "patterns",
            "which parts of an object do units show, and how do they move together",
            (
                "patterns",
                "pattern_edges",
                "pattern_places",
                "pattern_objects",
                "pattern_measures",
                "pattern_words",
                "pattern_word_measures",
                "pattern_edge_words",
                "pattern_synthesis",
            ),
            version=2,
        ),
        Study("locate", "where a part is, from three annotated objects", ("templates", "locations", "location_errors")),
        Study(
            "trust",
            "is a graph what the network does",
            ("effects", "effect_curves", "edge_effects", "completeness", "word_effects"),
            further=("shortcuts",),
            version=2,
        ),
        Study("agree", "how far do runs agree", ("agreement", "word_matches", "consensus")),
    )
}
"""By name, in the order of ``status``."""
