skip_without_engine()
skip_if_not_installed("Matrix")

study <- function() {
  data <- simulated(n = 300)
  set.seed(3)
  rate <- outer(c(2, 5, 0.5), c(a = 1, b = 3, c = 0.5)[data$meta$batch])
  counts <- matrix(rpois(length(rate), rate), 3, dimnames = list(paste0("gene", 1:3), rownames(data$Z)))
  counts <- rbind(counts, other = rpois(300, 100))
  list(counts = counts, meta = data$meta, done = quiet(data$Z, data$meta, "batch", return_object = TRUE, rng = 0))
}

test_that("counts are corrected, and keep shape, names and whole numbers", {
  s <- study()
  sparse <- Matrix::Matrix(s$counts, sparse = TRUE)
  before <- sparse@x + 0
  made <- CorrectCounts(sparse, s$meta, "batch", s$done, rng = 0)
  expect_s4_class(made, "dgCMatrix")
  expect_true(methods::validObject(made))
  expect_identical(dimnames(made), dimnames(sparse))
  expect_true(all(made@x == round(made@x)))
  expect_identical(sparse@x, before)
  apart <- function(x) diff(range(tapply(x["gene2", ], s$meta$batch, mean)))
  expect_lt(apart(as.matrix(made)), 0.3 * apart(s$counts))
  # A plain matrix, the soft assignments alone, and the same seed are the same.
  expect_identical(CorrectCounts(s$counts, s$meta, "batch", s$done$R, rng = 0, ncores = 1), made)
  expect_false(identical(CorrectCounts(sparse, s$meta, "batch", s$done, rng = 1), made))
  rates <- CorrectCounts(sparse, s$meta, "batch", s$done, rng = 0, rates = TRUE)
  expect_identical(rates@i, sparse@i)
})

test_that("set.seed decides the seed that is not given", {
  s <- study()
  run <- function() {
    set.seed(5)
    CorrectCounts(s$counts, s$meta$batch, clusters = s$done)
  }
  expect_identical(run(), run())
})

test_that("what does not fit is refused", {
  s <- study()
  expect_error(CorrectCounts(s$counts[, -1], s$meta, "batch", s$done), "clusters x 299 cells")
  expect_error(CorrectCounts(s$counts, s$meta[-1, ], "batch", s$done), "meta_data has 299 rows")
  expect_error(CorrectCounts(s$counts, s$meta, "lab", s$done), "no column 'lab'")
  expect_error(CorrectCounts(s$counts + 0.5, s$meta, "batch", s$done), class = "harmonax_input_error")
  expect_error(CorrectCounts("a", s$meta, "batch", s$done), "must be a matrix")
})
