"""The questions of the study: comparison, tail, clusters, few labels, shift, monitoring, claims."""
