skip_without_engine()
skip_if_not_installed("SingleCellExperiment")
data <- simulated(300)

experiment <- function() {
  counts <- matrix(rpois(3000, 3), 10, dimnames = list(NULL, rownames(data$Z)))
  object <- SingleCellExperiment::SingleCellExperiment(list(counts = counts), colData = data$meta)
  SingleCellExperiment::reducedDim(object, "PCA") <- data$Z
  object
}

test_that("the corrected embedding and the record are added", {
  done <- quiet(experiment(), "batch", rng = 0)
  found <- SingleCellExperiment::reducedDim(done, "HARMONY")
  expect_identical(unname(found), unname(quiet(data$Z, data$meta, "batch", rng = 0)))
  expect_identical(dimnames(found), list(rownames(data$Z), paste0("HARMONY", 1:6)))
  expect_identical(S4Vectors::metadata(done)$harmonax$seed, 0L)
  expect_identical(SingleCellExperiment::reducedDim(done, "PCA"), data$Z)
})

test_that("names, dimensions and variables are chosen", {
  done <- quiet(experiment(), c("batch", "donor"), theta = c(2, 1), reduction.use = "pca", dims.use = 1:4,
                reduction.save = "harmony", rng = 0)
  expect_identical(unname(SingleCellExperiment::reducedDim(done, "harmony")),
                   unname(quiet(data$Z[, 1:4], data$meta, c("batch", "donor"), theta = c(2, 1), rng = 0)))
})

test_that("what is not there is named", {
  expect_error(quiet(experiment(), "batch", reduction.use = "pac"), "no reduced dimension 'pac'; there is 'PCA'")
  expect_error(quiet(experiment(), "donors"), "no column 'donors'; did you mean 'donor'?",
               class = "harmonax_missing_key_error")
})

test_that("the convergence plot can be drawn from the object", {
  skip_if_not_installed("ggplot2")
  expect_s3_class(HarmonyConvergencePlot(quiet(experiment(), "batch")), "ggplot")
})
