"""Reports of finished runs, as one HTML page, as Markdown and as JSON."""
