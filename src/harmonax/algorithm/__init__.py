"""The method, written once, over tables. Pure functions on NumPy arrays; no files, no pandas, and no
threads of its own: what can be done in parallel goes through a `map` that is handed in.

contracts     the questions that cells answer       harmony      the loop: rounds and passes
flavors       harmony1 and harmony2, as data        penalty      the diversity penalty
objective     the objective and its terms           ridge        the correction of a cluster
convergence   when passes and rounds stop           seeding      the first centroids
schedule      blocks of cells, and their order      regressors   the columns of that correction

May import: `harmonax.params`, `design`, `result`, `errors`. Cells are known only by their contract.

========= ========== ==========================================================================
letter    shape      meaning
========= ========== ==========================================================================
Z         N x d      the input embedding; every correction starts from it
Zn        N x d      the current corrected embedding, rows of unit length (0 stays 0)
Y         K x d      cluster centroids of unit length
R         N x K      soft assignments, rows sum to 1; a function of Zn, Y and the penalties
O         B x K      mass: sum of R over the cells of a level
E         B x K      expected mass: Pr_b times the cluster's whole mass
Pr        B          share of the cells that carry a level (sums to the number of variables F)
theta     B          strength of the diversity penalty
sigma     K          width of the soft clusters
logp      B x K      log-penalty; a cell's own is the sum over its levels
S         J x K x d  moments R^T Z per joint level
W         B x K x d  ridge coefficients; W0 (K x d) is the intercept
J         --         number of joint levels, or the objective
========= ========== ==========================================================================

Tables are float64. Levels are rows, clusters columns, so that one level's clusters lie together.

Sources: Korsunsky et al. 2019, Nature Methods 16:1289 (harmony1); Patikas et al. 2026 (harmony2).
"""
