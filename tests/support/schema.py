"""The schema of a summary's attributes, ready to validate by."""

from __future__ import annotations

import jsonschema
from places import SCHEMA

#: Made once: `jsonschema.validate` checks the schema itself each time.
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
