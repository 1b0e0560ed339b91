"""`metabox serve`: a model as JSON over HTTP, and a page to play with it. Needs the extra serve."""
