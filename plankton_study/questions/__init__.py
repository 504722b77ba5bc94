"""The study's questions: comparison, long tail, clusters, few labels, shift, monitoring, claims."""
