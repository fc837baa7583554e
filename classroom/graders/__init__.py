"""For teachers, never released: of each task the right answers, and wrong ones with the points that they keep."""
