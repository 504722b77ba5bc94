"""Synthetic plankton: a procedurally drawn, labelled image set with known ground truth.

It is organised like a downloaded set: a folder for each taxon, file names with site, camera, time
and number, samples with common water and light, a long tail, a season, a second site and camera.
Results on it say nothing about real organisms.
"""
