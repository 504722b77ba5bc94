"""From what people have, folders, tables and Hub sets, to records and image files."""
