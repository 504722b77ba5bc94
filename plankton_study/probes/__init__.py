"""Evaluating an encoder: linear probes, selection on validation images, metrics with intervals."""
