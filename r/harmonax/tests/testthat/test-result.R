skip_without_engine()
data <- simulated(300)
fit <- quiet(data$Z, data$meta, c("batch", "donor"), max_iter = 50, rng = 2, return_object = TRUE)

test_that("the object has the parts of the harmony package, cells as columns", {
  corrected <- quiet(data$Z, data$meta, c("batch", "donor"), max_iter = 50, rng = 2)
  expect_s3_class(fit, "harmonax_result")
  expect_identical(fit$embedding, corrected)
  expect_identical(fit$Z_corr, t(corrected))
  expect_identical(fit$Z_orig, t(data$Z))
  expect_equal(unname(colSums(fit$Z_cos^2)), rep(1, 300))
  expect_identical(c(fit$K, fit$N, fit$d, fit$B), c(10L, 300L, 6L, 5L))
  expect_identical(dim(fit$Y), c(6L, 10L))
  expect_equal(colSums(fit$Y^2), rep(1, 10))
})

test_that("R is that of Python, and O and E are its sums", {
  params <- utils::modifyList(DEFAULTS, list(max_iter_harmony = 50))
  theirs <- in_python(data$Z, data$meta[c("batch", "donor")], params, rng = 2)
  expect_identical(unname(fit$R), t(theirs$R))
  expect_identical(colnames(fit$R), rownames(data$Z))
  expect_equal(unname(colSums(fit$R)), rep(1, 300), tolerance = 1e-5)
  member <- function(name) outer(data$meta[[name]], sort(unique(data$meta[[name]])), "==") * 1
  phi <- cbind(member("batch"), member("donor"))
  expect_equal(unname(fit$O), unname(fit$R %*% phi), tolerance = 1e-5)
  expect_equal(unname(fit$E), outer(rowSums(fit$R), colMeans(phi)), tolerance = 1e-5, ignore_attr = TRUE)
  expect_identical(colnames(fit$O), c("batch=a", "batch=b", "batch=c", "donor=d1", "donor=d2"))
})

test_that("the objective has an entry for the start and each round or pass", {
  expect_length(fit$objective_harmony, length(fit$kmeans_rounds) + 1)
  expect_length(fit$objective_kmeans, sum(fit$kmeans_rounds) + 1)
  expect_identical(fit$objective_harmony[-1], fit$objective_kmeans[-1][cumsum(fit$kmeans_rounds)])
  expect_lt(tail(fit$objective_harmony, 1), fit$objective_harmony[1])
})

test_that("it keeps what Python reads alive, whichever way round", {
  run <- function(Z) quiet(Z, data$meta, c("batch", "donor"), max_iter = 50, rng = 2, return_object = TRUE)
  across <- run(t(data$Z) + 0)
  invisible(gc())
  expect_identical(across$R, fit$R)
  expect_identical(across$Z_orig, t(data$Z))
})

test_that("it prints in two lines, and its parts cannot be changed", {
  expect_output(print(fit), "300 cells x 6 dimensions, 5 batches, 10 clusters\nconverged after")
  expect_error(fit$R <- 1, "cannot be changed")
})

test_that("what was learned is kept in a file", {
  file <- tempfile(fileext = ".h5")
  quiet(data$Z, data$meta, "batch", rng = 2, save_model = file)
  code <- sprintf("import harmonax; print(harmonax.HarmonyModel.load(%s))", shQuote(file, "cmd"))
  said <- system2(reticulate::py_config()$python, c("-c", shQuote(code)), stdout = TRUE)
  expect_match(said, "HarmonyModel of 300 cells x 6: 10 clusters; batch \\(3\\)")
  expect_error(quiet(data$Z, data$meta, "batch", save_model = "model.rds"), "\\.h5 or \\.zarr", class = "harmonax_error")
})

test_that("one batch leaves nothing to report", {
  alone <- suppressWarnings(quiet(data$Z, rep("a", 300), return_object = TRUE))
  expect_identical(alone$status, "single_batch")
  expect_identical(dim(alone$R), c(0L, 300L))
  expect_identical(alone$objective_harmony, numeric())
  expect_output(print(alone), "nothing to correct")
})

test_that("the plot has every pass and every round", {
  skip_if_not_installed("ggplot2")
  plot <- HarmonyConvergencePlot(fit)
  expect_s3_class(plot, "ggplot")
  expect_identical(plot$data$objective, fit$objective_kmeans[-1])
  expect_identical(sum(plot$data$last), length(fit$kmeans_rounds))
  expect_match(plot$labels$title, "converged after")
  grDevices::pdf(NULL)
  on.exit(grDevices::dev.off())
  expect_silent(print(plot))
  stopped <- quiet(data$Z, data$meta, "batch", max_iter = 1, return_object = TRUE, plot_convergence = TRUE)
  expect_match(HarmonyConvergencePlot(stopped)$labels$title, "stopped at max_iter, after 1 round$")
  alone <- suppressWarnings(quiet(data$Z, rep("a", 300), return_object = TRUE))
  expect_error(HarmonyConvergencePlot(alone), "nothing to draw", class = "harmonax_error")
  expect_error(HarmonyConvergencePlot(list()), "no record")
})
