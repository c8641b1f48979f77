"""The documentation site: ``nox -s docs`` builds it into ``docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402 - beside this file

from jetpay_async import __version__  # noqa: E402 - after the path
from jetpay_async.models import _further  # noqa: E402 - likewise

# autodoc takes the texts of fields from the file of a class's module: not from where users find the class.
for value in vars(_further).values():
    if isinstance(value, type) and value.__module__ == "jetpay_async.models":
        value.__module__ = _further.__name__

project = "jetpay-async"
author = "The jetpay_async maintainers"
project_copyright = f"2026, {author}"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "compose", "reference/generated/*.md", "reference/generated/*.txt"]
# As the docstrings are written: `JetpayClient` is a name.
default_role = "py:obj"
myst_enable_extensions = ["deflist", "html_image"]
myst_heading_anchors = 4

# A docstring may name an attribute that several classes have, such as `type`.
suppress_warnings = ["ref.python"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 100

# Hundreds of names in each page's tree take as long as the rest of the build; the pages list them at their top.
toc_object_entries = False

html_theme = "furo"
html_title = f"jetpay-async {version}"
html_extra_path = ["reference/generated/llms.txt"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


def setup(app: object) -> None:
    """Write what is made of the code before anything is read."""
    del app
    generate.write(HERE / "reference" / "generated")
