skip_without_engine <- function() {
  there <- harmonax_available()
  if (!there) testthat::skip(attr(there, "reason"))
}

# The real data sets; by default beside the checkout, as for the Python tests.
data_dir <- function() {
  folder <- Sys.getenv("HARMONAX_TEST_DATA", "../../../../../shared/data")
  if (!dir.exists(folder)) testthat::skip(paste("no real data at", folder, "- set HARMONAX_TEST_DATA"))
  normalizePath(folder)
}

# Three batches, shifted, of two cell groups; a second variable `donor`.
simulated <- function(n = 600, d = 6) {
  set.seed(7)
  batch <- sample(rep(c("a", "b", "c"), c(0.5, 0.3, 0.2) * n))
  group <- sample(c("T", "B"), n, replace = TRUE)
  Z <- matrix(rnorm(n * d), n)
  Z[, 1] <- Z[, 1] + ifelse(group == "T", 6, -6)
  Z[, 2] <- Z[, 2] + c(a = 0, b = 2, c = -2)[batch]
  cells <- paste0("cell", seq_len(n))
  dimnames(Z) <- list(cells, paste0("PC_", seq_len(d)))
  donor <- sample(c("d1", "d2"), n, replace = TRUE)
  list(Z = Z, meta = data.frame(batch = batch, donor = donor, group = group, row.names = cells))
}

# How far the batches' means are apart, within cell groups.
gap <- function(Z, data) {
  means <- function(group) {
    rows <- data$meta$group == group
    sapply(split(as.data.frame(Z[rows, ]), data$meta$batch[rows]), colMeans)
  }
  mean(sapply(c("T", "B"), function(group) mean(dist(t(means(group))))))
}

quiet <- function(...) suppressWarnings(RunHarmony(..., verbose = FALSE), classes = "harmonax_not_converged")

# The parameters that RunHarmony runs with unless told.
DEFAULTS <- list(max_iter_harmony = 10, max_iter_clustering = 200, tol_harmony = 1e-4, tol_clustering = 1e-5)

# What harmonax computes in a Python process of its own, from the same numbers.
in_python <- function(Z, variables, params = DEFAULTS, rng = 0) {
  folder <- tempfile("python")
  dir.create(folder)
  on.exit(unlink(folder, recursive = TRUE))
  job <- list(shape = dim(Z), variables = as.list(names(variables)), params = params, rng = rng)
  writeLines(jsonlite::toJSON(job, auto_unbox = TRUE, digits = NA), file.path(folder, "job.json"))
  writeBin(as.vector(t(Z)), file.path(folder, "Z.bin"))
  for (name in names(variables)) writeLines(as.character(variables[[name]]), file.path(folder, paste0(name, ".txt")))
  status <- system2(reticulate::py_config()$python, c(shQuote(testthat::test_path("harmonize.py")), shQuote(folder)))
  stopifnot(status == 0)
  read <- function(name) {
    file <- file.path(folder, name)
    matrix(readBin(file, "double", file.size(file) / 8), nrow(Z), byrow = TRUE)
  }
  list(embedding = read("out.bin"), R = read("R.bin"))
}

kang <- function() {
  file <- file.path(data_dir(), "kang_fullgenes.h5ad")
  folder <- tempfile("kang")
  dir.create(folder)
  on.exit(unlink(folder, recursive = TRUE))
  script <- shQuote(testthat::test_path("read_h5ad.py"))
  stopifnot(system2(reticulate::py_config()$python, c(script, shQuote(file), shQuote(folder))) == 0)
  text <- function(name) readLines(file.path(folder, paste0(name, ".txt")))
  numbers <- function(name, what, bytes) {
    path <- file.path(folder, paste0(name, ".bin"))
    readBin(path, what, file.size(path) / bytes)
  }
  names <- list(text("genes"), text("cells"))
  counts <- Matrix::sparseMatrix(i = numbers("i", "integer", 4), p = numbers("p", "integer", 4),
                                 x = numbers("x", "double", 8), dims = lengths(names), dimnames = names, index1 = FALSE)
  list(counts = counts, meta = data.frame(batch = text("batch"), cell_type = text("cell_type"), row.names = names[[2]]))
}

# A small Seurat object with counts, scaled genes and PCA.
small_seurat <- function(n = 240, genes = 60) {
  data <- simulated(n, genes)
  set.seed(8)
  counts <- matrix(rpois(genes * n, t(exp(data$Z / 4 + 1))), genes,
                   dimnames = list(paste0("gene", seq_len(genes)), rownames(data$meta)))
  object <- Seurat::CreateSeuratObject(Matrix::Matrix(counts, sparse = TRUE), meta.data = data$meta)
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  Seurat::VariableFeatures(object) <- rownames(object)[1:40]
  object <- Seurat::ScaleData(object, verbose = FALSE)
  suppressWarnings(Seurat::RunPCA(object, npcs = 10, verbose = FALSE))
}
