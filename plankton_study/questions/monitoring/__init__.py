"""What a monitoring programme asks: honest probabilities, unknown taxa, abundances."""
