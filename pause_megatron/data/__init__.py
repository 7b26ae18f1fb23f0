"""Training data: opens dataset folders, orders their samples, and stacks them into batches, under any layout."""
