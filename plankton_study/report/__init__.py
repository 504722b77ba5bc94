"""Results: figures, tables and numbers with their provenance, and how they are shown."""
