"""Writes a document as text, Markdown and HTML, and its tables as CSV and LaTeX."""
