"""What a recipe says about execution: the sandbox and the limits of one program."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from flextune.section import SECTION


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Limits:
    """What one program may use."""

    cpu_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Processor time of the tests; each process of the program has its own account."""
    wall_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Time by the clock, for programs that sleep."""
    compile_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time by the clock for the compiler."""
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    """Memory: the heap of Java and JavaScript, the address space of other languages."""
    output_kb: Annotated[int, Field(ge=1)] = 16384
    """Bytes on standard output and standard error together; a program that writes more is stopped."""
    processes: Annotated[int, Field(ge=1)] = 256
    """Processes and threads (does not bind root without a sandbox)."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Execution:
    """How programs written by a model are judged."""

    sandbox: Literal["auto", "bubblewrap", "none"] = "auto"
    """auto: the strongest there is; none: the machine is open to the program, and needs allow_unsandboxed."""
    allow_unsandboxed: bool = False
    """Agree to run programs written by a model without a sandbox."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Programs judged at once; as many as the machine has processors by default."""
    limits: Limits = Field(default_factory=Limits)
    """What one program may use."""
