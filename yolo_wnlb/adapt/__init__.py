"""A detector and bright pictures without labels in, a detector for the dark out."""
