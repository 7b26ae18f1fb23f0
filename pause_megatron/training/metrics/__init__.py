"""Metrics of a run, gathered every step and recorded every few steps; ``docs/metrics.md`` explains every number."""
