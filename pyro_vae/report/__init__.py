"""Numbers that were computed elsewhere, as documents, and these as text, tables, pages and pictures."""
