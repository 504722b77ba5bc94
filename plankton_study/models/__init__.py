"""The denoiser and its rivals: networks, what they are trained to do, and the training loop."""
