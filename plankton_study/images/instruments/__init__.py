"""Raw files of instruments: those that are read, and how images are got from the others."""
