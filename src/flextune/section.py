"""What the sections of a recipe have in common.

Each module owns the section that it reads (`tuning.settings.Training`, `generation.decoding.Decoding`, …) as a frozen
pydantic dataclass with this configuration, so that YAML, Python and the command line meet the same checks.
"""

from pydantic import ConfigDict

SECTION = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Unknown keys are errors, and a docstring under a field is its help."""
