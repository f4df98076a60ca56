"""Truth and predictions in, numbers and intervals out: no model, no picture."""
