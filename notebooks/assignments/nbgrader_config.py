"""The settings of nbgrader, which reads them from the folder in which it is started: this one."""

import os

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    DeduplicateIds,
    LockCells,
    OverwriteCells,
    OverwriteKernelspec,
    SaveCells,
)

from classroom.plugins import PerDay, PutBack, SetCohort

c = get_config()  # noqa: F821

# --- what a teacher may want to change ----------------------------------------------------------------------------
c.CourseDirectory.course_id = "lora-edu"
c.PerDay.percent = 10  # late: percent of the score for each day begun, after 15 minutes of grace; 0: no penalty
c.Execute.timeout = 120  # seconds a cell
memory_gib = 4  # what a student's kernel may take; more ends in a MemoryError in that cell

# --- what the assignments rely on ---------------------------------------------------------------------------------
c.CourseDirectory.root = os.getcwd()
c.NbGrader.logfile = ""
c.ClearSolutions.code_stub = {"python": "return ..."}
c.ClearSolutions.text_stub = "*Your answer here.*"
c.OverwriteCells.add_missing_cells = True
c.AssignLatePenalties.plugin_class = PerDay
c.SetCohort.cohort = os.environ.get("COHORT", "formative")
c.GenerateAssignment.preprocessors = [
    SetCohort,
    LockCells,
    ClearSolutions,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ClearMarkScheme,
    ComputeChecksums,
    CheckCellMetadata,
]
c.Autograde.sanitize_preprocessors = [
    ClearOutput,
    DeduplicateIds,
    OverwriteKernelspec,
    PutBack,
    OverwriteCells,
    CheckCellMetadata,
]

os.environ["LORA_EDU_CLASSROOM"] = os.getcwd()  # the hidden tests find what they compare with
for variable, value in {"OMP_NUM_THREADS": "1", "LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop"}.items():
    os.environ.setdefault(variable, value)
try:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (memory_gib * 2**30, resource.RLIM_INFINITY))
except (ImportError, ValueError, OSError):
    pass  # Windows has no such limit; a container sets its own
