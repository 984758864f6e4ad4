"""How far an estimate can be trusted: k-hat, more work on the worst data, gaps, the true posterior."""
