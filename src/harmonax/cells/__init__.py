"""Where cells live. Each file answers the questions of `harmonax.algorithm.contracts.Cells`."""
