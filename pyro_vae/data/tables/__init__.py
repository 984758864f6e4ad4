"""A user's own tables -> `Found`.

    table_file.py   a table in a text file
    table_text.py   its lines, its delimiter and its header
    frames.py       a table in memory: a pandas frame
    column_cells.py the cells of a column: numbers, missing ones, text

x, the label, groups and names of rows are found and noted, or refused with the cure.
"""
