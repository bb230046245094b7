"Sphinx, for the pages that tools/docs.py writes; the notebooks have been run before"
from pathlib import Path

project = "protolab"
copyright = "2026 onwards, The protolab authors"
extensions = ["myst_nb"]
exclude_patterns = ["_static", "theme", "extra"]

html_title = "protolab"
html_theme = "furo"
pygments_dark_style = "github-dark"
html_static_path = ["_static", "theme"]
html_extra_path = ["extra"]  # the notebooks, to download
html_css_files = ["custom.css"]
html_favicon = "theme/favicon.svg"
html_search_scorer = str(Path(__file__).parent/"scorer.js")  # lessons before pages of source
html_copy_source = False

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
nb_code_prompt_hide = "Hide the {type}"
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

# Scripts are local (tools/docs-assets.sh): the pages ask nobody else for anything
mathjax_path, mathjax_config_path, myst_update_mathjax = "tex-svg.js", "mathjax.js", False
nb_ipywidgets_js = {"require.js": {}, "embed-amd.js": {}}
