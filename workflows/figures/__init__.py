"""What the draw stage draws: tables and arrays read, records handed to the report."""
