"""Are the features of a frozen, label-free diffusion model a good encoder for plankton images?

The rooms, in the order in which an image becomes a number; each imports only from itself and from
rooms above it:

    run/        errors, profile, study, cache: what every step stands on
    images/     from image files to a collection, and to its parts
    models/     the denoiser, its rivals, and the training loop
    features/   hooks on a frozen network, encoders, and a bank of features
    probes/     linear probes, selection, metrics with intervals
    questions/  comparison, tail, clusters, few labels, shift, monitoring, claims
    report/     figures, tables and numbers with their provenance
"""

import os
import warnings

# Before any Hugging Face library is imported, since they read these once. A profile with
# `hub = true` lifts the first two.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are drawn
