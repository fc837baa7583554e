"""Where the bytes go: shapes, activations, the calculator, the peak of a step, a paged optimizer."""
