"""The explorer: a page to look at cells and test images of a run, in a browser or in JupyterLab."""
