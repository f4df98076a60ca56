"""A second version of a data set on disk: darkened, or enhanced."""
