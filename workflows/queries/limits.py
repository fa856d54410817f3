"""What a query may take; imported without DuckDB."""

from __future__ import annotations

PROCESS_BYTES = 4 << 30
"""Address space of the process that answers, its libraries included."""

RESULT_BYTES = 2 << 30
"""Of rows that are written, before the process is ended."""

TOO_MANY_ROWS = 3
"""Exit code where they take more."""

MEMORY = "2GB"
"""DuckDB's own limit."""

SECONDS = 30
"""That a statement may take."""

GRACE_S = 10
"""Of the start, and of what DuckDB does not interrupt by itself."""
