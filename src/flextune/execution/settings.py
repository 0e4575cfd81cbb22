"""What a recipe says about execution: the sandbox and the limits of one program."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from flextune.section import SECTION


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Limits:
    """What one program may use."""

    cpu_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Processor time of the tests, over all processes of the program."""
    wall_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Time by the clock, for programs that sleep; what it stops is run once more, alone."""
    compile_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Processor time of the compiler; three times as much by the clock."""
    memory_mb: Annotated[int, Field(ge=64)] = 1024
    """Memory of a process: the heap of Java and JavaScript, the address space of other languages. All processes of a
    program together may take 256 MB more."""
    disk_mb: Annotated[int, Field(ge=1)] = 64
    """Files that the program writes."""
    output_kb: Annotated[int, Field(ge=1)] = 16384
    """Bytes on standard output and standard error together; a program that writes more is stopped."""
    processes: Annotated[int, Field(ge=1)] = 256
    """Processes and threads (not without a sandbox)."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Execution:
    """How programs written by a model are judged."""

    sandbox: Literal["auto", "bubblewrap", "native", "none"] = "auto"
    """auto: the strongest that holds; none: the machine is open to the program, and needs allow_unsandboxed."""
    allow_unsandboxed: bool = False
    """Agree to run programs written by a model without a sandbox."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Programs judged at once; by default as many as there are processors, and memory for them."""
    java_release: Annotated[int, Field(ge=8)] | None = None
    """The version of Java that programs are compiled for; that of the JDK by default."""
    compatible: bool = False
    """Judge as MultiPL-E does: exit status 0 passes, whether the tests ran to their end or not."""
    ray: str | None = None
    """The address of a Ray cluster to judge on, such as auto or 10.0.0.1:6379; this machine by default."""
    limits: Limits = Field(default_factory=Limits)
    """What one program may use."""
