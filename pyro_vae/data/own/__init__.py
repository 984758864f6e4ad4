"""Data that people bring: an array, an archive, or what lies in memory, and what all of them share.

    reading.py      what a user says of a file (`Reading`), and what a reader finds in it (`Found`)
    layout.py       which axis is what: (N, ...) as stored -> (N, *x_shape)
    numbers.py      which numbers they are: bits, levels, counts or reals, each checked to the last one
    labels.py       labels of any plain type -> classes 0, 1, ... and their names
    archives.py     `.npy` and `.npz` files -> `Found`
    in_memory.py    arrays, tensors and frames -> `Found`
    arrays.py       `Found` -> `Raw`, as one more source
    columns.py      columns of a table that say nothing, or that float32 would round away
    conversions.py  files of other formats: the two lines that convert them

Tables and folders of images have folders of their own.
"""
