"""Where image sets come from: this machine, a download, a wheel, or a commit in git."""
