"""The strings planted in a slide that no output may hold."""

from __future__ import annotations

PLANTED = ("DOE^JANE", "S20-1234", "jane.doe", "SS1234", "1961-04-12", "DOE", "jane")


SLIDE = "slides/stomach/stomach-metaplasia.svs"
