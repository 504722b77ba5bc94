"""Networks at sizes that suit small images."""
