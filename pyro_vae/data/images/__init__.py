"""A user's own folders of images -> `Found`: (N, C, H, W).

    image_folder.py    reads a folder: headers first, then pixels
    folder_layout.py   which folders are splits and which are classes
    image_files.py     one image: its header, pixels, colours and size
    image_cache.py     converts many images once, into a file that is mapped

The class of an image is its subfolder.
"""
