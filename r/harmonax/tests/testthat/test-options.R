skip_without_engine()
data <- simulated(300)
run <- function(...) quiet(data$Z, data$meta, "batch", rng = 0, ...)

test_that("older names and options mean the same", {
  expect_identical(run(max.iter.harmony = 2), run(max_iter = 2))
  expect_identical(run(max_iter_harmony = 2), run(max_iter = 2))
  options <- harmony_options(max.iter.cluster = 6, epsilon.cluster = 1e-7, epsilon.harmony = 1e-4, block.size = 0.2,
                             tau = 3, alpha = 0.4, batch.prop.cutoff = 0.01)
  expect_identical(run(max.iter.cluster = 6, epsilon.cluster = 1e-7, epsilon.harmony = 1e-4, block.size = 0.2, tau = 3,
                       alpha = 0.4, batch.prop.cutoff = 0.01), run(.options = options))
  expect_identical(run(max_iter_clustering = 6, tol_clustering = 1e-7, tol_harmony = 1e-4, block_proportion = 0.2,
                       tau = 3, alpha = 0.4, batch_prune_threshold = 0.01), run(.options = options))
  expect_false(identical(run(.options = options), run()))
  expect_identical(run(nclust = 5), run(n_clusters = 5))
  expect_identical(quiet(data$Z, data$meta, "batch", random_state = 4), quiet(data$Z, data$meta, "batch", rng = 4))
})

test_that("what a call says wins over .options", {
  expect_identical(run(.options = harmony_options(tau = 3), tau = 0), run())
})

test_that("lambda = NULL is dynamic, a number fixed", {
  params <- function(...) run(..., return_object = TRUE)$record$params
  expect_identical(params(lambda = NULL)$ridge, "dynamic")
  expect_identical(params(lambda = -1)$ridge, "dynamic")
  fixed <- params(lambda = 1)
  expect_identical(fixed[c("ridge", "ridge_lambda")], list(ridge = "fixed", ridge_lambda = 1))
  expect_false(identical(run(lambda = 1), run()))
})

test_that("the defaults are those of pp.harmony_integrate", {
  for (flavor in c("harmony1", "harmony2")) {
    expect_equal(run(flavor = flavor, return_object = TRUE)$record$params[names(DEFAULTS)], DEFAULTS)
  }
})

test_that("early_stop = FALSE and -Inf run all rounds and passes", {
  rounds <- function(...) run(..., return_object = TRUE)$kmeans_rounds
  expect_lt(length(rounds(max_iter = 30)), 30)
  expect_length(rounds(max_iter = 30, early_stop = FALSE), 30)
  expect_length(rounds(max_iter = 30, epsilon.harmony = -Inf), 30)
  expect_identical(rounds(max_iter = 2, early_stop = FALSE,
                          .options = harmony_options(max.iter.cluster = 9, epsilon.cluster = -Inf)), c(9L, 9L))
  expect_lt(length(rounds(early_stop = FALSE, epsilon.harmony = 1e-2)), length(rounds(max_iter = 30)))
})

test_that("an argument nobody knows is an error that names the nearest", {
  expect_error(run(thetta = 3), "no argument 'thetta'; did you mean 'theta'", class = "harmonax_input_error")
  expect_error(run(max.iter.harmoni = 3), "did you mean 'max.iter.harmony'")
  expect_error(RunHarmony(data$Z, data$meta, "batch", 2, 0.1, NULL, NULL, 10, TRUE, NULL, FALSE, FALSE, FALSE,
                          harmony_options(), 3), "by name only")
  expect_error(run(.options = list(taau = 3)), ".options has no 'taau'")
})

test_that("a parameter given twice is an error", {
  expect_error(run(max_iter = 3, max.iter.harmony = 4), "second name", class = "harmonax_input_error")
  expect_error(run(tau = 1, epsilon.harmony = 1, tol_harmony = 1), "second name")
})

test_that("what is not offered says so, and its NULL is accepted", {
  expect_identical(run(cluster_prior = NULL), run())
  expect_error(run(cluster_prior = 1), "'cluster_prior' is not offered")
})

test_that("cells of a reference stay where they are, under both names", {
  stays <- data$meta$batch == data$meta$batch[1]
  for (corrected in list(run(reference = data$meta$batch[1]), run(reference_values = data$meta$batch[1]))) {
    expect_identical(corrected[stays, ], data$Z[stays, ])
    expect_false(any(rowSums(abs(corrected[!stays, ] - data$Z[!stays, ])) == 0))
  }
  expect_identical(run(reference = NULL), run())
  expect_error(run(reference = "zzz"), "has no level 'zzz'")
})

test_that("what is protected is estimated beside the batches", {
  meta <- transform(data$meta, condition = rep(c("a", "b"), length.out = nrow(data$meta)))
  protected <- RunHarmony(data$Z, meta, "batch", protect = "condition", rng = 0, verbose = FALSE, max_iter = 50)
  expect_equal(dim(protected), dim(data$Z))
  expect_false(identical(protected, run(max_iter = 50)))
  expect_error(run(protect = "batch"), "is a batch column")
  expect_error(run(protect = "sex"), "sex")
})

test_that("covariates are numbers, and are removed", {
  depth <- sin(seq_len(nrow(data$Z)) * 12.9898)
  meta <- transform(data$meta, depth = depth, text = "a")
  Z <- data$Z + outer(depth, rep(c(1, -1), length.out = ncol(data$Z)))
  found <- RunHarmony(Z, meta, "batch", covariates = "depth", rng = 0, verbose = FALSE, max_iter = 50)
  slope <- function(E) sum(abs(stats::coef(stats::lm(E ~ depth))[2, ]))
  expect_lt(slope(found), 0.5 * slope(RunHarmony(Z, meta, "batch", rng = 0, verbose = FALSE, max_iter = 50)))
  expect_error(RunHarmony(Z, meta, "batch", covariates = "text"), "covariates are numbers")
  expect_error(RunHarmony(Z, meta, "batch", covariates = "batch"), "is a batch column")
  expect_error(RunHarmony(Z, meta, "batch", covariates = "deep"), "deep")
  meta$depth[3] <- NA
  expect_error(RunHarmony(Z, meta, "batch", covariates = "depth"), "1 values that are missing")
})

test_that("HarmonyMatrix takes embeddings only", {
  expect_identical(HarmonyMatrix(data$Z, data$meta, "batch", do_pca = FALSE, max_iter = 50, rng = 0, verbose = FALSE),
                   run(max_iter = 50))
  expect_error(HarmonyMatrix(data$Z, data$meta, "batch", do_pca = TRUE), "pass principal components")
})

test_that("arguments may be named in any order", {
  expect_identical(quiet(vars_use = "batch", meta_data = data$meta, data_mat = data$Z, rng = 0), run())
  expect_identical(quiet(group.by.vars = "batch", meta_data = data$meta, object = data$Z, rng = 0), run())
})
