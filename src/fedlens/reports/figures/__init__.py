"""The plots of a report, as plotly figures on a transparent ground (the page sets ink and paper, light or dark)."""
