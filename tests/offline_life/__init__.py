"""Sixty days of a hotel whose desks work offline, on simulated time."""
