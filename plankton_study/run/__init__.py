"""Used by every step: errors, files, the machine, the profile, the study and its cache."""
