"""Figures of the pages: plots and maps as SVG that follows the page's colours, outlines over slices as PNG.

Drawn with matplotlib's objects, never with ``pyplot``, so that nothing is shared between figures or threads.
"""
