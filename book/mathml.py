"""Formulas as MathML, written into the page: every browser draws them and every screen reader speaks them, without a
script. An extension of Sphinx."""

import re

from docutils import nodes

from lora_course.setup import report

# The bars of a norm: a browser would take the closing one for an opening one too, and stretch both to the line.
NORM = re.compile(r"<mo>(&#x0*(?:2016|7C);)</mo>", re.I)


def mathml(formula: str, display: str = "inline") -> str:
    """A formula as the notebooks' pages have it, its norms with bars as tall as a letter."""
    return NORM.sub(r'<mo fence="false" stretchy="false">\1</mo>', report.mathml(formula, display))


def visit_inline(translator, node) -> None:
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node) -> None:
    translator.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", inline_renderers=(visit_inline, None), block_renderers=(visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
