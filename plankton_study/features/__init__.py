"""Reading a frozen network: hooks, noise, encoders, and a bank of features."""
