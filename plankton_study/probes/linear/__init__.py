"""Linear probes: standardised features, discriminant analysis and logistic regression."""
