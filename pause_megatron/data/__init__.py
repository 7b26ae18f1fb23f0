"""From indexed datasets to batches: fixed-length sequences, their loss mask, and an order that no layout changes."""
