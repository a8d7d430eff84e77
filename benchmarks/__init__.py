"""Measurements of this code beside named peers and limits; README.md says how to run each."""
