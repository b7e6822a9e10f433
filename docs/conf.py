"""How Sphinx makes the site of these pages: `make docs`."""

import tcertify

project = "tcertify"
copyright = "The tcertify developers"
version = release = tcertify.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"tcertify {version}"
html_copy_source = html_show_sourcelink = False
copybutton_prompt_text = "$ "

myst_heading_anchors = 4
default_role = "code"

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False

nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!tcertify|adre_train).*"),  # other packages
    ("py:class", r"tcertify(\.\w+){3}"),  # types in signatures that are no public names
    ("myst", r".*benchmarks/results/.*"),  # files of the checkout, which the site does not hold
]


def _stands_in_the_root(app, what, name, value, skip, options):
    """Tell a name of `tcertify` once, not again in the package that it comes from."""
    inside = app.env.current_document.autodoc_module not in ("", "tcertify")
    return True if inside and name in tcertify.__all__ else None


def setup(app):
    """Register what Sphinx calls."""
    app.connect("autodoc-skip-member", _stands_in_the_root)
