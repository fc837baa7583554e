"""The teacher's side of the assignments: release, collect, grade, report. Needs the extra `classroom` (nbgrader).

It lies beside the package and not in it: what a student installs holds no solution. `classroom/graders` has the right
answers and the well-known wrong ones; the source notebooks lie in notebooks/assignments/source. The student's side,
`lora_course.assignments`, imports nothing from here.
"""
