"""What every step stands on: errors, files, the machine, the profile, the study and its cache."""
