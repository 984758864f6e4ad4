"""Data that people bring: an array, an archive, a table, a folder of images, or what lies in memory.

layout.py     which axis is what: (N, ...) as stored -> (N, *x_shape)
numbers.py    which numbers they are: bits, levels, counts or reals, each checked to the last one
labels.py     labels of any plain type -> classes 0, 1, ... and their names
archives.py   `.npy` and `.npz` files -> `Found`
arrays.py     `Found` -> `Raw`, as one more source
"""
