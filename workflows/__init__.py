"""The method for clusters: reads pictures, runs networks, writes Zarr and Parquet, draws."""
