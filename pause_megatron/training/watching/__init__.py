"""What a run says of itself: figures gathered every step, made into records every few steps, written to several sinks.

``docs/watching.md`` explains every figure.
"""
