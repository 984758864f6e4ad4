"""Turns numbers that were computed elsewhere into documents, and documents into text, tables, pages and pictures."""
