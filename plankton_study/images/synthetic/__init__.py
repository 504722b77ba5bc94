"""Procedural plankton: an embedded, labelled image set with a known truth.

It behaves like a download: a folder for each taxon, file names that tell site, camera, time and
number, samples that share water and light, a long tail, a season, a second site and camera. It
says nothing about real organisms.
"""
