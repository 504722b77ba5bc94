"""Questions of a monitoring programme: calibrated probabilities, unknown taxa, abundances."""
