"""Artefacts on disk: the run folder, Zarr arrays, Parquet tables (the public contract), mixtures and ledgers."""
