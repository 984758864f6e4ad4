"""How the pages are made: MyST for the guides, autodoc for the reference; nothing is fetched.

sphinx-build -W -b html docs docs/_build/html
"""

import sys
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import docstrings  # noqa: E402 - found by the path above

import pyro_vae  # noqa: E402 - the same

project = "pyro_vae"
author = "The pyro_vae developers"
copyright = "The pyro_vae developers"  # noqa: A001 - as Sphinx names it
version = release = pyro_vae.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape", "Reference"]
add_module_names = False
python_maximum_signature_line_length = 88

smartquotes = False  # L' is a transpose

# MathJax as one file that holds its letters: formulas are readable from disk, printed, and without a network.
(mathjax,) = find_spec("sphinx-mathjax-offline").submodule_search_locations
html_static_path = [f"{mathjax}/static/mathjax/tex-svg.js", "pages.css"]
html_css_files = ["pages.css"]
mathjax_path = "tex-svg.js"

html_theme = "furo"
html_title = f"pyro_vae {version}"
html_show_sourcelink = False


def setup(app):
    app.connect("autodoc-process-docstring", docstrings.to_rst, priority=100)  # before napoleon
