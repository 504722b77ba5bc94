"""The parameters of the synthetic set: cameras, strata and taxa."""

import tomllib
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("parameters.toml")
PARAMETERS: dict[str, Any] = tomllib.loads(FILE.read_text("utf-8"))
CAMERAS = PARAMETERS["cameras"]
STRATA = PARAMETERS["strata"]
TAXA = PARAMETERS["taxa"]
