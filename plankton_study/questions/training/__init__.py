"""What training brings: the denoiser, denoisers that differ, and larger budgets."""
