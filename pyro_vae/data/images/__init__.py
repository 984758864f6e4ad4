"""Folders of images that people bring -> `Found`: (N, C, H, W).

    image_folder.py    a folder, as it is read: headers first, then pixels
    folder_layout.py   which folders are splits, and which classes
    image_files.py     one image: its header, its pixels, its colours and size
    image_cache.py     many images, converted once into a file that is mapped

The class of an image is its subfolder.
"""
