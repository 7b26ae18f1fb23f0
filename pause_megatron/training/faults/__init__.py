"""What a run does about faults: requests to stop, and batches that would spoil the weights."""
