"""Metrics of a run: gathered every step, recorded every few steps, and written to several sinks.

``docs/metrics.md`` explains every number.
"""
