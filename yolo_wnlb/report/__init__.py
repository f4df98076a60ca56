"""One page about trained detectors: what they are worth in the dark, which confidence to set, and what goes wrong."""
