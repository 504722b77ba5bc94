"""The denoiser: its noise schedule, its training, its pipeline, and the linear filter to beat."""
