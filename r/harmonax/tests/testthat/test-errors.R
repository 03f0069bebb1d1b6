skip_without_engine()
data <- simulated(300)
run <- function(...) RunHarmony(..., verbose = FALSE)

test_that("a column that is not there is named, with the nearest", {
  expect_error(run(data$Z, data$meta, "bacth"), "no column 'bacth'; did you mean 'batch'?",
               class = "harmonax_missing_key_error")
  expect_error(run(data$Z, data$meta, "bacth"), class = "harmonax_error")
  expect_error(run(data$Z, data$meta), "name the batch column")
  expect_error(run(data$Z, data$meta, character()), "at least one")
})

test_that("missing labels are refused with the first cell's name", {
  meta <- data$meta
  meta$batch[c(7, 9)] <- NA
  expect_error(run(data$Z, meta, "batch"), "'batch' has 2 missing values \\(first: cell 'cell7'\\)",
               class = "harmonax_input_error")
  meta$batch <- addNA(factor(meta$batch))
  expect_error(run(data$Z, meta, "batch"), "2 missing values")
  expect_error(run(unname(data$Z), c(NA, rep(1:2, length.out = 299))), "first: row 1")
})

test_that("values that are not finite are refused with the first cell's name", {
  for (bad in c(NA, NaN, Inf, -Inf)) {
    Z <- data$Z
    Z[3, 2] <- bad
    expect_error(run(Z, data$meta, "batch"), "in 1 cells \\(first: cell 'cell3'\\)", class = "harmonax_input_error")
    expect_error(run(t(Z), data$meta, "batch"), "cell 'cell3'")
  }
})

test_that("sizes and orders that do not fit are refused", {
  expect_error(run(data$Z[1:100, ], data$meta, "batch"), "100 x 6 but there are batch labels for 300 cells")
  expect_error(run(data$Z, data$meta[300:1, ], "batch"), "different order")
  expect_error(run("a", data$meta, "batch"), "matrix of numbers")
  expect_error(run(data$Z, list(1)), "data frame or a vector")
})

test_that("errors of the engine arrive with their message, and no traceback", {
  caught <- tryCatch(run(data$Z, data$meta, "batch", theta = c(1, 2, 3, 4)), error = identity)
  expect_s3_class(caught, c("harmonax_input_error", "harmonax_error", "error"), exact = FALSE)
  expect_identical(conditionMessage(caught),
                   "theta has 4 values; allowed are 1, one per batch variable (1) or one per level of all variables (3)")
  expect_error(run(data$Z, data$meta, "batch", nclust = 1000), "more than the 300 cells")
  expect_error(run(data$Z, data$meta, "batch", sigma = -1), "sigma")
  expect_error(run(data$Z, data$meta, "batch", precision = "half"), "precision='half'")
  expect_error(run(data$Z, data$meta, "batch", backend = "here"), "backend='here'")
  expect_error(run(data$Z, data$meta, "batch", ncores = -1), "n_threads=-1")
  expect_error(run(data$Z, data$meta, "batch", checkpoint = file.path(tempdir(), "no", "such")), "checkpoint directory",
               class = "harmonax_output_error")
  expect_error(run(data$Z, data$meta, "batch", rng = -1), "rng must be a whole number")
})

test_that("a column like barcodes or a measurement is refused, in R's words", {
  meta <- data.frame(barcode = rownames(data$Z), measured = data$Z[, 1])
  rownames(meta) <- rownames(data$Z)
  expect_error(run(data$Z, meta, "barcode"), "cell barcode.*pass allow_many_levels = TRUE$")
  expect_error(run(data$Z, meta, "measured"), "looks like a measurement")
})

test_that("an interrupt ends the run, as an interrupt", {
  skip_on_os("windows")
  big <- matrix(rnorm(4e6), 2e5)
  labels <- rep(c("a", "b"), 1e5)
  # So many rounds take hours.
  system(sprintf("(sleep 1.5; kill -INT %d) &", Sys.getpid()))
  ended <- tryCatch(
    quiet(big, labels, max_iter = 10000, early_stop = FALSE, .options = harmony_options(max.iter.cluster = 200)),
    interrupt = function(e) "interrupted"
  )
  expect_identical(ended, "interrupted")
  expect_identical(dim(quiet(data$Z, data$meta, "batch")), dim(data$Z))
})
