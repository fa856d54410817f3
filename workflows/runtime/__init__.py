"""The only place that knows Ray and Dask: the cluster, shard dispatcher, fit group, reductions and the budget."""

import os

# Ray reads these while it is imported or started, and every module of this room imports it: so they stand here.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray warns that it hides the GPUs from actors that ask for none; the coming behaviour is to leave them alone.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Dead workers are replaced and counted here; Ray's own paragraph about each would tear the progress bars.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed|The node with node id")
