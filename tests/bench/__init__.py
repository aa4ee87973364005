"""Measurements beside other programs, and that `hub bench` measures what it says."""
