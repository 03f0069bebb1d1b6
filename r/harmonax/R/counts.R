#' Counts without the batch effect
#'
#' Corrects counts gene by gene on the soft clusters of a correction: those of an object that
#' `RunHarmony(<matrix>, ..., return_object = TRUE)` returned. The same bits as `harmonax.pp.correct_counts` in Python, which
#' says how it is done.
#'
#' Corrected counts are for looking at genes, for markers, and for models that need counts. **Do not test them between the
#' batches that were corrected**: such differences were removed. For that use the counts as they were measured, with the
#' batch in the model.
#'
#' @param counts Counts, genes x cells: a sparse matrix, such as `SeuratObject::GetAssayData(object, slot = "counts")`, or a
#'   plain one.
#' @param meta_data A data frame with one row per cell, or a vector of batch labels.
#' @param vars_use Batch column, or several, whose effects are removed.
#' @param clusters A `harmonax_result`, or its soft assignments `R`, clusters x cells.
#' @param rates Scale each count by its batch effect rather than draw whole numbers.
#' @param ridge_lambda Ridge penalty of a batch effect, in counts. Higher values correct rare genes less.
#' @param alpha Ridge penalty relative to the counts expected of a batch in a cluster. Higher values correct less.
#' @param rng Seed of the random quantiles, a whole number; `NULL`: one that `set.seed()` decides.
#' @param ncores Threads. `NULL`: the CPUs that this process may use. The result does not depend on it.
#'
#' @return A sparse matrix (`dgCMatrix`) of the shape and names of `counts`.
#' @export
#' @examples
#' batch <- rep(c("a", "b"), each = 150)
#' set.seed(1)
#' pcs <- matrix(rnorm(300 * 5), 300) + (batch == "b")
#' counts <- matrix(rpois(2 * 300, rbind(ifelse(batch == "b", 6, 2), 50)), 2)
#' if (harmonax_available() && requireNamespace("Matrix", quietly = TRUE)) {
#'   meta <- data.frame(batch = batch)
#'   done <- RunHarmony(pcs, meta, "batch", return_object = TRUE, max_iter = 50, verbose = FALSE)
#'   corrected <- CorrectCounts(counts, meta, "batch", done)
#'   tapply(corrected[1, ], batch, mean)
#' }
CorrectCounts <- function(counts, meta_data, vars_use, clusters, rates = FALSE, ridge_lambda = 1, alpha = 0.2,
                          rng = NULL, ncores = NULL) {
  need_package("Matrix")
  if (!inherits(counts, c("matrix", "Matrix"))) abort("counts must be a matrix, genes x cells")
  counts <- methods::as(methods::as(methods::as(counts, "CsparseMatrix"), "generalMatrix"), "dMatrix")
  R <- if (inherits(clusters, "harmonax_result")) clusters$R else clusters
  if (!is.numeric(R) || !is.matrix(R) || ncol(R) != ncol(counts)) {
    abort(sprintf("clusters must be a harmonax_result or numbers, clusters x %d cells", ncol(counts)))
  }
  if (!is.double(R)) storage.mode(R) <- "double"
  if (is.atomic(meta_data)) {
    meta_data <- data.frame(batch = meta_data)
    if (missing(vars_use)) vars_use <- "batch"
  }
  if (NROW(meta_data) != ncol(counts)) {
    abort(sprintf("meta_data has %d rows, but there are %d cells", NROW(meta_data), ncol(counts)))
  }
  columns <- batch_columns(meta_data, vars_use, cells = colnames(counts))
  options <- seeded(list(rng = rng))["rng"]
  options <- c(options, list(rates = rates, ridge_lambda = ridge_lambda, alpha = alpha))
  if (!is.null(ncores)) options$n_threads <- as.integer(ncores)
  place <- list(i = .Call(C_address, counts@i), p = .Call(C_address, counts@p), x = .Call(C_address, counts@x),
                n_cells = ncol(counts), n_genes = nrow(counts), size = length(counts@x))
  crossing <- lapply(columns, function(column) column[c("name", "address", "size", "real", "levels")])
  outcome <- engine()$counts(place, crossing, list(data = .Call(C_address, R), size = nrow(R)), options)
  settle(outcome)
  # Vectors nobody else refers to, for Python to fill.
  size <- reticulate::py_to_r(outcome$size)
  made <- list(i = integer(size), p = integer(ncol(counts) + 1), x = numeric(size))
  settle(engine()$deliver_counts(outcome, lapply(made, function(values) .Call(C_address, values))))
  methods::new("dgCMatrix", i = made$i, p = made$p, x = made$x, Dim = dim(counts), Dimnames = dimnames(counts))
}
