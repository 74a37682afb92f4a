"""The plots of a report, as plotly figures with a transparent background (the page sets the colours, light or dark)."""
