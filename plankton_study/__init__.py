"""Are the features of a frozen, label-free diffusion model a good encoder for fine-grained plankton images?"""

import os
import warnings

# Before any import of a Hugging Face library, which read these once; a profile with `hub = true` lifts the first two.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
warnings.filterwarnings("ignore", "IProgress not found")  # no widgets are drawn
