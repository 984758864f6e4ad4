"""One module for each section of the report; each has `tables(plan)`."""
