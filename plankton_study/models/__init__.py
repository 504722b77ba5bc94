"""The denoiser and its rivals: networks, training objectives, and the training loop."""
