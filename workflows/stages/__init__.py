"""The verbs of a run, in order. Each reads artefacts, calls one room, writes artefacts."""
