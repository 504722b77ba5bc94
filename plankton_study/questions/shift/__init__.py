"""Away from home: another season, another site, another instrument."""
