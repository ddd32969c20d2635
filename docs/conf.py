"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import codec

project = "codec"
author = "the codec developers"
project_copyright = "2026, the codec developers"
version = release = codec.__version__

extensions = [
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "figures"]
templates_path = ["_templates"]
toc_object_entries_show_parents = "hide"
default_role = "literal"

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's type lines say more
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
extlinks = {"doi": ("https://doi.org/%s", "doi:%s"), "arxiv": ("https://arxiv.org/abs/%s", "arXiv:%s")}
extlinks_detect_hardcoded_links = False

html_theme = "pydata_sphinx_theme"
html_title = f"codec {version}"
html_static_path = ["_static"]
html_css_files = ["codec.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 5,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Pages without pages below them give the width of the left column to their tables.
html_sidebars: dict[str, list[str]] = {
    path.stem: [] for path in Path(__file__).parent.glob("*.rst") if path.stem != "api"
}


def escape_shapes(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape the last underscore of shapes such as (n_features_in_,), which docutils takes for a link."""
    del app, what, name, obj, options
    lines[:] = [re.sub(r"\((\w+)_,\)", r"(\1\\_,)", line) for line in lines]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", escape_shapes, priority=100)  # before numpydoc
