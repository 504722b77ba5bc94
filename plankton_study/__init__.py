"""Are the features of a frozen, label-free diffusion model a good encoder for plankton images?

The subpackages, called rooms, follow an image from file to result. Each imports only from itself
and from the rooms above it:

    run/        errors, profile, study, cache: used by every step
    images/     from image files to a collection and its splits
    models/     the denoiser, its rivals, and the training loop
    features/   hooks on a frozen network, encoders, and the feature bank
    probes/     linear probes, selection, metrics with intervals
    questions/  comparison, long tail, clusters, few labels, shift, monitoring, claims
    report/     figures, tables and numbers with their provenance
"""

import os
import warnings

# Hugging Face libraries read these once, so they are set before any of them is imported.
# A profile with `hub = true` overrides the first two.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
warnings.filterwarnings("ignore", "IProgress not found")  # progress bars use no widgets
