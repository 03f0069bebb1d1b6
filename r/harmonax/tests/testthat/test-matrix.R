skip_without_engine()
data <- simulated()

test_that("the bits are those of Python", {
  corrected <- quiet(data$Z, data$meta, "batch", rng = 5)
  expect_identical(unname(corrected), in_python(data$Z, data$meta["batch"], rng = 5)$embedding)
})

test_that("the bits are those of Python for several variables, options and double precision", {
  corrected <- quiet(data$Z, data$meta, c("batch", "donor"), theta = c(2, 1), sigma = 0.2, nclust = 12, max_iter = 3,
                     lambda = c(1, 2), precision = "float64", rng = 1,
                     .options = harmony_options(tau = 5, block.size = 0.1, max.iter.cluster = 7, epsilon.cluster = 1e-6))
  params <- list(max_iter_harmony = 3, max_iter_clustering = 7, tol_harmony = 1e-4, tol_clustering = 1e-6,
                 theta = c(2, 1), sigma = 0.2, n_clusters = 12, ridge = "fixed", ridge_lambda = c(1, 2), tau = 5,
                 block_proportion = 0.1, precision = "float64")
  expect_identical(unname(corrected), in_python(data$Z, data$meta[c("batch", "donor")], params, rng = 1)$embedding)
})

test_that("the batches come closer", {
  expect_lt(gap(quiet(data$Z, data$meta, "batch"), data), 0.3 * gap(data$Z, data))
})

test_that("cells may be rows or columns, and keep their names", {
  upright <- quiet(data$Z, data$meta, "batch", rng = 0)
  expect_identical(dimnames(upright), dimnames(data$Z))
  expect_identical(quiet(t(data$Z), data$meta, "batch", rng = 0), upright)
  expect_identical(quiet(as.data.frame(data$Z), data$meta, "batch", rng = 0), upright)
})

test_that("the input stays as it was", {
  Z <- data$Z + 0
  invisible(quiet(Z, data$meta, "batch"))
  invisible(quiet(t(Z), data$meta, "batch", return_object = TRUE))
  expect_identical(Z, data$Z)
})

test_that("whole numbers are an embedding too", {
  Z <- round(data$Z * 10)
  whole <- Z
  storage.mode(whole) <- "integer"
  expect_identical(quiet(whole, data$meta, "batch", rng = 0), quiet(Z, data$meta, "batch", rng = 0))
})

test_that("batches may be text, factors, numbers, logical, or a vector of labels", {
  number <- match(data$meta$batch, letters)
  text <- quiet(data$Z, data$meta, "batch", rng = 0)
  meta <- data.frame(f = factor(data$meta$batch), i = number, d = as.numeric(number),
                     unused = factor(data$meta$batch, letters))
  for (name in names(meta)) expect_identical(quiet(data$Z, meta, name, rng = 0), text, info = name)
  expect_identical(quiet(data$Z, data$meta$batch, rng = 0), text)
  two <- data.frame(batch = data$meta$donor == "d2", text = data$meta$donor)
  expect_identical(quiet(data$Z, two, "batch", rng = 0), quiet(data$Z, two, "text", rng = 0))
})

test_that("levels of text are in the order of Python, not of the session's language", {
  skip_if_not(isTRUE(l10n_info()[["UTF-8"]]))
  labels <- c("B", "a", "\u00e9")[match(data$meta$batch, letters)]
  expect_identical(unname(quiet(data$Z, labels, rng = 0)), in_python(data$Z, list(batch = labels))$embedding)
  expect_identical(levels(as_factor(rev(c("B", "a", "\u00e9")))), c("B", "a", "\u00e9"))
})

test_that("set.seed decides, and rng is the seed itself", {
  run <- function(...) quiet(data$Z, data$meta, "batch", ...)
  set.seed(1)
  first <- run()
  set.seed(1)
  expect_identical(run(), first)
  expect_false(identical(run(), first))
  set.seed(1)
  seed <- draw_seed()
  expect_identical(run(rng = seed), first)
  set.seed(1)
  invisible(run(rng = 3))
  expect_identical(draw_seed(), seed)
})

test_that("the number of threads changes nothing", {
  expect_identical(quiet(data$Z, data$meta, "batch", rng = 0, ncores = 1),
                   quiet(data$Z, data$meta, "batch", rng = 0, ncores = 2))
})

test_that("cells on disk give the same bits, and a run resumes from a checkpoint", {
  here <- quiet(data$Z, data$meta, "batch", rng = 0)
  expect_identical(quiet(data$Z, data$meta, "batch", rng = 0, backend = "disk"), here)
  expect_identical(quiet(t(data$Z), data$meta, "batch", rng = 0, max_memory = "4G"), here)
  folder <- tempfile("rounds")
  short <- quiet(data$Z, data$meta, "batch", max_iter = 2, checkpoint = folder)
  longer <- quiet(data$Z, data$meta, "batch", checkpoint = folder, return_object = TRUE)
  expect_identical(longer$embedding, quiet(data$Z, data$meta, "batch", rng = longer$record$seed))
  expect_gt(length(longer$kmeans_rounds), 2)
})

test_that("the other places for cells agree", {
  run <- function(...) quiet(data$Z, data$meta, "batch", rng = 0, precision = "float64", ...)
  expect_equal(run(backend = "dense"), run(), tolerance = 1e-9)
})

test_that("several variables can be joined into one", {
  joined <- paste(data$meta$batch, data$meta$donor, sep = "|")
  expect_identical(quiet(data$Z, data$meta, c("batch", "donor"), combine_keys = TRUE, rng = 0),
                   quiet(data$Z, joined, rng = 0))
})

test_that("missing labels can be a batch", {
  meta <- data$meta
  meta$batch[1:40] <- NA
  filled <- ifelse(is.na(meta$batch), "missing", meta$batch)
  expect_identical(quiet(data$Z, meta, "batch", missing = "level", rng = 0), quiet(data$Z, filled, rng = 0))
})

test_that("it tells of rounds and of the end, unless it is to be quiet", {
  told <- capture.output(invisible(RunHarmony(data$Z, data$meta, "batch", max_iter = 50, rng = 0)), type = "message")
  expect_match(told[1], "^Harmony 1/50: objective -?[0-9]")
  expect_match(told[length(told)], "^Harmony: converged after [0-9]+ rounds")
  expect_silent(RunHarmony(data$Z, data$meta, "batch", max_iter = 50, rng = 0, verbose = FALSE))
})

test_that("one batch is a warning, and changes nothing", {
  expect_warning(same <- RunHarmony(data$Z, rep("a", 600), verbose = FALSE), "every cell has the same batch",
                 class = "harmonax_warning")
  expect_equal(same, data$Z, tolerance = 1e-7)
})

test_that("a run that stops at max_iter is a warning of its own class", {
  expect_warning(RunHarmony(data$Z, data$meta, "batch", max_iter = 1, verbose = FALSE), "raise max_iter",
                 class = "harmonax_not_converged")
})

test_that("a parameter that has no effect is a warning of the engine", {
  expect_warning(RunHarmony(data$Z, data$meta, "batch", lambda = 1, .options = harmony_options(alpha = 0.5),
                            verbose = FALSE), "alpha has no effect", class = "harmonax_warning")
})
