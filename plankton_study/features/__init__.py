"""Reading features from a frozen network: hooks, noise, encoders, and the feature bank."""
