"""A report as text, Markdown, CSV, LaTeX and HTML."""
