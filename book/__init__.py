"""The course as a static site: `python -m book` writes it to build/book. Nothing in it needs a kernel or a network.

`pages` makes the sources from the notebooks and their stored outputs, `api` the page of the public names. `live`, `svg`
and `products` give the first slider of a notebook a life without a kernel. `mathml` writes formulas, `conf` is read by
Sphinx, which does the rest, and `browse` looks at the result in a real browser.
"""
