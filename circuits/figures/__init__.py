"""Arrays and labels to matplotlib figures, without a display and without global state."""

from circuits.figures.charts import bars, curves, scatter
from circuits.figures.files import figure_format, figure_svg, save_figure
from circuits.figures.grids import heatmap, heatmaps
from circuits.figures.lens import lens_grid
from circuits.figures.patterns import pattern_grid
from circuits.figures.style import Interval, Numbers, visible
from circuits.figures.views import VIEWS, draw
from circuits.figures.wiring import Wording, wiring
from circuits.files import FIGURE_FORMATS as FORMATS

__all__ = [
    "FORMATS",
    "VIEWS",
    "Interval",
    "Numbers",
    "Wording",
    "bars",
    "curves",
    "draw",
    "figure_format",
    "figure_svg",
    "heatmap",
    "heatmaps",
    "lens_grid",
    "pattern_grid",
    "save_figure",
    "scatter",
    "visible",
    "wiring",
]
