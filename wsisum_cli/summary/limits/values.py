"""What a number or text among the attributes may be, as types that pydantic checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from wsisum_cli.models.card import no_bool

Count = Annotated[int, Field(ge=0, le=2**53)]  # JSON numbers are exact up to here
Size = Annotated[int, Field(ge=1, le=2**31 - 1)]
Side = Annotated[int, Field(ge=1, le=8192)]  # px of a patch or a tile; a reader makes room for its square
Positive = Annotated[float, Field(gt=1e-9, lt=1e9)]
Cosine = Annotated[float, Field(ge=-1.000001, le=1.000001)]
Share = Annotated[float, Field(ge=0, le=1.000001)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Shrink = Annotated[Literal[1, 2, 4, 8], BeforeValidator(no_bool)]
Finite = Annotated[int | float, Field(ge=-1e9, le=1e9)]
Area = Annotated[float, Field(ge=0, lt=1e9)]  # mm²
Recompressed = Annotated[
    Literal["jxl"] | None,
    Field(description="rows hold JPEG XL files, from which JPEG comes back byte for byte; missing: rows hold JPEG"),
]
Limits = Annotated[list[Finite], Field(min_length=2, max_length=2)]
Answer = Literal["PASS", "REVIEW", "FAIL"]
Limited = Literal["represented", "largest_mm2", "chance"]
Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider"]
Figure = Literal[
    "coverage",
    "coverage_p05",
    "coverage_min",
    "weighted_cosine",
    "composition",
    "represented",
    "reconstruction",
    "embedding_cosine",
    "slide_cosine",
]
