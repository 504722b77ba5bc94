"""Names for images without a label: the probe that gives them, their reliability, next steps."""
