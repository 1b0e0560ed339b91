"""Reports: what finished runs say, as one HTML page, as Markdown and as JSON."""
