"""Networks in sizes that suit small images."""
