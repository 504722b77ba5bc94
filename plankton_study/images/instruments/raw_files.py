"""Raw files that no reader expects: what they are, and what to do with them."""

from pathlib import Path

IFCB = 'raw files of an Imaging FlowCytobot: set entry.reader = "ifcb"'
FLOWCAM = "a run of a FlowCam: export its images one by one from VisualSpreadsheet"
#: endings of raw files → what they are, and what to do with them
RAW_FILES = {
    ".roi": IFCB,
    ".adc": IFCB,
    ".lst": FLOWCAM,
    ".ctx": FLOWCAM,
    ".xlsx": 'workbooks: save a sheet as CSV, and set entry.reader = "table"',
    ".parquet": 'parquet files: set entry.reader = "hub"',
}


def advice_on(place: Path) -> str:
    """Return what a folder without images holds, and what to do with it; "" if it is unknown."""
    endings = {path.suffix.lower() for path in place.glob("**/*")}
    for ending, advice in RAW_FILES.items():
        if ending in endings:
            return f"it has {ending} files, {advice}"
    return ""
