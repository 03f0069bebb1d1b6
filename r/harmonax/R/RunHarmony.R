#' Remove batch effects from an embedding with Harmony
#'
#' Corrects the principal components (or another embedding) of a Seurat object, of a SingleCellExperiment, or a matrix.
#' The arguments are those of the harmony package; its older names (`max.iter.harmony`, `epsilon.cluster`, `block.size`,
#' `reduction`, ...) work too.
#'
#' @section Defaults:
#' Harmony2 with at most 10 rounds, as users of the harmony package know it, but with tolerances that let the
#' objective settle (as [harmony_options()] has them; those of the harmony package can stop after the first round, with
#' the batches still apart). 10 rounds are often too few: a run that ends there gives a warning of class
#' `harmonax_not_converged`, and `max_iter = 50` nearly always suffices. To stop where the harmony package does, pass
#' `.options = harmony_options(max.iter.cluster = 4, epsilon.cluster = 1e-3, epsilon.harmony = 1e-2)`.
#'
#' @section Reproducibility:
#' The seed is drawn from R's generator, so `set.seed()` decides it; `rng` sets it directly. Same seed, same bits, for any
#' number of threads, and the same as in Python with that `rng`.
#'
#' @param ... For the generic: the object first. For the methods, by name: `rng` (the seed, a whole number), `flavor`
#'   (`"harmony2"` or `"harmony1"`), `precision` (`"float32"` or `"float64"`), `combine_keys` (join several variables into
#'   one), `missing` (`"error"`, or `"level"`: missing labels are a batch of their own), `allow_many_levels`, `ridge`
#'   (`"dynamic"` or `"fixed"`), `backend` (`"auto"`, `"memory"`, `"disk"`, `"jax"`, `"dense"`), `max_memory` (such as
#'   `"4G"`), `scratch`, `checkpoint` (a directory from which a run that was stopped resumes), `save_model` (a file,
#'   `.h5` or `.zarr`, for what was learned: `harmonax map --basis` maps new cells with it), what [harmony_options()]
#'   has, and older names. An unknown argument is an error.
#'   `reference` names batch levels whose cells stay where they are, a vector or, for several variables, a list of vectors
#'   by variable (`reference_values` is its older name). `protect` names columns with biology that must stay, such as the
#'   condition: batch effects are estimated, and mixing is judged, within it. `covariates` names numeric columns, such as
#'   the depth or a cell-cycle score, whose effect is removed beside that of the batches.
#' @param data_mat Embedding: cells are rows or columns, depending on the number of rows of `meta_data` (where both fit,
#'   rows).
#' @param meta_data A data frame with one row per cell, or a vector of batch labels.
#' @param vars_use,group.by.vars Batch column, or several. Several are separate variables whose penalties multiply.
#' @param theta Strength of the diversity penalty: one number, one per variable, or one per level. `NULL`: 2. Higher
#'   values mix batches more strongly, also where their cells differ by biology; 0 removes the penalty, not the
#'   correction.
#' @param sigma Width of the soft clusters: one number or one per cluster. Higher values spread each cell over more
#'   clusters; lower values come closer to hard clusters.
#' @param lambda Ridge penalty: one number, one per variable, or one per level. Higher values correct less. `NULL`:
#'   dynamic, Harmony2's own.
#' @param nclust Number of clusters. More clusters correct finer groups of cells separately, and take more time. `NULL`:
#'   a thirtieth of the number of cells, from 2 to 100.
#' @param max_iter Maximum number of rounds of clustering and correction. Raise it where a run ends before it has
#'   converged.
#' @param early_stop Stop where the objective has settled; see `epsilon.harmony` of [harmony_options()], which wins.
#' @param ncores Threads. `NULL` or 0: the CPUs that this process may use. The result does not depend on it.
#' @param plot_convergence Print [HarmonyConvergencePlot()].
#' @param return_object Return the whole result rather than the corrected embedding.
#' @param verbose Report each round, and how the run ended.
#' @param .options What [harmony_options()] returns.
#' @param object A Seurat object or a SingleCellExperiment.
#' @param reduction.use,reduction Name of the embedding to correct. In a SingleCellExperiment, case does not matter where
#'   only one fits.
#' @param dims.use Dimensions to use; `NULL`: all.
#' @param reduction.save Name for the corrected embedding.
#' @param project.dim Project the loadings of all scaled genes, as [Seurat::ProjectDim()] does.
#' @param assay,assay.use Assay that the new reduction names as its own; `NULL`: that of `reduction.use`.
#'
#' @return For a matrix: the corrected embedding, cells x dimensions, or with `return_object` an object of class
#'   `harmonax_result` (see [harmonax_result]). For a Seurat object or a SingleCellExperiment: the object with the
#'   corrected embedding, and the record of the run in `Misc(object[["harmony"]], "harmonax")` or
#'   `metadata(object)$harmonax`.
#' @references Korsunsky et al. 2019, \doi{10.1038/s41592-019-0619-0}
#' @export
#' @examples
#' batch <- rep(c("a", "b"), each = 150)
#' set.seed(1)
#' pcs <- matrix(rnorm(300 * 5), 300) + (batch == "b")
#' if (harmonax_available()) {
#'   corrected <- RunHarmony(pcs, data.frame(batch = batch), "batch", verbose = FALSE)
#'   rbind(before = colMeans(pcs[batch == "b", ]), after = colMeans(corrected[batch == "b", ]))
#' }
RunHarmony <- function(...) {
  UseMethod("RunHarmony", subject(list(...)))
}

# What to dispatch on: the first argument has another name in each method.
subject <- function(arguments) {
  named <- intersect(c("object", "data_mat"), names(arguments))
  if (length(named)) arguments[[named[1]]] else if (length(arguments)) arguments[[1]]
}

#' @rdname RunHarmony
#' @export
RunHarmony.default <- function(data_mat, meta_data, vars_use, theta = NULL, sigma = 0.1, lambda = NULL, nclust = NULL,
                               max_iter = 10, early_stop = TRUE, ncores = NULL, plot_convergence = FALSE,
                               return_object = FALSE, verbose = TRUE, .options = harmony_options(), ...) {
  dots <- list(...)
  if (missing(data_mat) && !is.null(dots$object)) data_mat <- dots$object
  if (missing(vars_use)) vars_use <- dots$group.by.vars
  dots[c("object", "group.by.vars")] <- NULL
  arguments <- list(theta = theta, sigma = sigma, lambda = lambda, nclust = nclust, max_iter = max_iter,
                    ncores = ncores)
  options <- engine_options(arguments, .options, dots, early_stop)
  table <- batch_table(meta_data, vars_use)
  input <- as_embedding(data_mat, nrow(table$data))
  check_order(input$cells, table$data)
  columns <- all_columns(table$data, table$names, options, input$cells)
  options <- seeded(options)
  fit <- correct(input$Z, columns, options, input$across, verbose, keep = return_object, cells = input$cells)
  if (plot_convergence) print(HarmonyConvergencePlot(fit$record))
  if (return_object) harmonax_result(fit, input$Z, input$across) else fit$embedding
}

# A vector of labels is a table of one column.
batch_table <- function(meta_data, vars_use) {
  if (is.data.frame(meta_data) || methods::is(meta_data, "DataFrame")) {
    if (is.null(vars_use)) abort("vars_use is missing: name the batch column of meta_data")
    return(list(data = meta_data, names = vars_use))
  }
  if (!is.atomic(meta_data) || length(dim(meta_data)) > 1) abort("meta_data must be a data frame or a vector of labels")
  name <- if (length(vars_use) == 1) vars_use else "batch"
  list(data = stats::setNames(data.frame(meta_data), name), names = name)
}

# The embedding as a matrix of numbers, and whether its columns are the cells.
as_embedding <- function(data_mat, n_cells) {
  if (is.data.frame(data_mat) || methods::is(data_mat, "Matrix")) data_mat <- as.matrix(data_mat)
  if (!is.matrix(data_mat) || !is.numeric(data_mat)) abort("the embedding must be a matrix of numbers")
  if (!n_cells %in% dim(data_mat)) {
    abort(sprintf("the embedding is %d x %d but there are batch labels for %d cells; one side must be the cells",
                  nrow(data_mat), ncol(data_mat), n_cells))
  }
  across <- nrow(data_mat) != n_cells
  list(Z = data_mat, across = across, cells = if (across) colnames(data_mat) else rownames(data_mat))
}

# Rows are matched by place: the same names in another order are a mistake.
check_order <- function(cells, table) {
  named <- !is.null(cells) && is.character(attr(table, "row.names"))
  if (!named || identical(cells, rownames(table))) return()
  if (setequal(cells, rownames(table))) {
    abort("the embedding and meta_data name the same cells in a different order; reorder one of them")
  }
}

#' HarmonyMatrix, the older name
#'
#' Calls [RunHarmony()] for a matrix. It takes an embedding: there is no PCA here.
#'
#' @param ... Arguments of [RunHarmony()] for a matrix.
#' @param do_pca,npcs Only `do_pca = FALSE` is possible.
#' @return As [RunHarmony()] for a matrix.
#' @export
HarmonyMatrix <- function(..., do_pca = FALSE, npcs = NULL) {
  if (do_pca) abort("do_pca = TRUE is not offered: pass principal components, such as prcomp(...)$x")
  RunHarmony.default(...)
}
