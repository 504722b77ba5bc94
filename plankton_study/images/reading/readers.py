"""The readers by name: each turns a folder, a table or a dataset into records and image files.

To add a reader, write a function (place, entry) → (records, files), and add it to `READERS` and
its name to `CatalogueEntry.reader`.
"""

from plankton_study.images.instruments.ifcb import read_ifcb
from plankton_study.images.reading.folder import read_folder
from plankton_study.images.reading.hub import read_hub
from plankton_study.images.reading.records import Reader
from plankton_study.images.reading.table import read_table

READERS: dict[str, Reader] = {
    "folder": read_folder,
    "synthetic": read_folder,
    "table": read_table,
    "hub": read_hub,
    "ifcb": read_ifcb,
}
