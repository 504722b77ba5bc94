"""From image files to a collection, and from a collection to its splits."""
