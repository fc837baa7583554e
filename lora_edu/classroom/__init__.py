"""The teacher's side of the assignments: release, collect, grade, report. Needs the extra `classroom` (nbgrader).

What a release must not contain, the right answers and the well-known wrong ones, lies outside the package, in
notebooks/assignments/graders.
"""
