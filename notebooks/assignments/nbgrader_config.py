"""The settings of nbgrader, which reads them from the folder in which it is started: this one."""

import os

from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    DeduplicateIds,
    GetGrades,
    LockCells,
    OverwriteCells,
    OverwriteKernelspec,
    SaveCells,
)

from classroom import sandbox
from classroom.plugins import ForTheStudent, LockText, PerDay, PutBack, Sandboxed, SetCohort
from classroom.readings import SaveGrades

c = get_config()  # noqa: F821

# --- what a teacher may want to change ----------------------------------------------------------------------------
c.CourseDirectory.course_id = "lora-edu"
c.PerDay.percent = 10  # late: percent of the score for each day begun, after 15 minutes of grace; 0: no penalty
c.Sandboxed.timeout = 120  # seconds a cell
c.Sandboxed.seconds = 900  # seconds a submission
sandbox.LIMITS["memory"] = 4 * 2**30  # of a submission; more ends in a MemoryError in that cell, or its end

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
    LockText,
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

# Each submission runs in a box of its own; the points come from classroom/judge.py, and not from the kernel.
c.Autograde.autograde_preprocessors = [Sandboxed, SaveGrades, AssignLatePenalties, CheckCellMetadata]
c.GenerateFeedback.preprocessors = [ForTheStudent, GetGrades, CSSHTMLHeaderPreprocessor]

os.environ["LORA_EDU_CLASSROOM"] = os.getcwd()
