"""The parameters of the synthetic set: cameras, strata and taxa."""

import tomllib
from pathlib import Path
from typing import Any

NATURE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("nature.toml").read_text("utf-8"))
CAMERAS = NATURE["cameras"]
STRATA = NATURE["strata"]
TAXA = NATURE["taxa"]
