"""A user's own data: an array, an archive, or data in memory, and what all of them share.

    reading.py      what a user says about a file (`Reading`), and what a reader finds in it (`Found`)
    layout.py       the meaning of each axis: (N, ...) as stored -> (N, *x_shape)
    numbers.py      the kind of the numbers: bits, levels, counts or reals; each number is checked
    labels.py       labels of any plain type -> classes 0, 1, ... and their names
    archives.py     `.npy` and `.npz` files -> `Found`
    in_memory.py    arrays, tensors and frames -> `Found`
    arrays.py       `Found` -> `Raw`, as one more source
    columns.py      columns of a table that are constant, or that float32 would round away
    conversions.py  files of other formats: the two lines that convert them

Tables and folders of images have folders of their own.
"""
