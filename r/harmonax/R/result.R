#' The whole result of RunHarmony
#'
#' What `RunHarmony(<matrix>, ..., return_object = TRUE)` returns. Its parts are read by `$`, in the orientation of the
#' harmony package (cells are columns):
#'
#' - `Z_corr`, `Z_orig`, `Z_cos`: corrected and original embedding, and the corrected one at unit length, d x N
#' - `R`: soft assignments, K x N; computed when first asked for
#' - `Y`: centroids after the last correction, d x K
#' - `O`, `E`: observed cells of each batch in each cluster, and those expected, K x B
#' - `objective_harmony`, `objective_kmeans`: the objective at the start and after every round, or every clustering pass;
#'   `kmeans_rounds`: passes in each round
#' - `K`, `N`, `d`, `B`: numbers of clusters, cells, dimensions and batches
#' - `embedding`: the corrected embedding as `RunHarmony` returns it, N x d
#' - `status`: `"converged"`, `"max_iterations"` or `"single_batch"`; `record`: parameters, history, seed, versions
#'
#' The object keeps the engine's working copies alive for `R`. It is of this session: save the parts, not the object.
#'
#' @name harmonax_result
NULL

harmonax_result <- function(fit, Z, across) {
  self <- new.env(parent = emptyenv())
  self$embedding <- fit$embedding
  self$record <- fit$record
  self$status <- fit$record$status
  self$summary <- fit$summary
  history <- fit$record$history
  alone <- fit$record$status == "single_batch"
  self$objective_harmony <- if (alone) numeric() else unlist(history$objective)
  self$objective_kmeans <- if (alone) numeric() else c(unlist(history$objective)[1], unlist(history$objective_passes))
  self$kmeans_rounds <- as.integer(unlist(history$passes))
  self$N <- nrow(fit$embedding)
  self$d <- ncol(fit$embedding)
  self$K <- as.integer(fit$record$n_clusters)
  add_tables(self, reticulate::py_to_r(engine()$tables(fit$python)))
  lazily(self, "Z_corr", function() t(fit$embedding))
  # Python reads the original where it is: this keeps it there.
  lazily(self, "Z_orig", function() if (across) Z else t(Z))
  lazily(self, "Z_cos", function() t(fit$embedding / sqrt(rowSums(fit$embedding^2))))
  lazily(self, "R", function() soft_assignments(fit$python, self$K, rownames(fit$embedding)))
  structure(self, class = "harmonax_result")
}

# Made when first asked for, and kept.
lazily <- function(self, name, make) {
  made <- NULL
  makeActiveBinding(name, function(value) {
    if (!missing(value)) abort(sprintf("%s cannot be changed", name))
    if (is.null(made)) made <<- make()
    made
  }, self)
}

# Y, O and E, of which Python hands out rows one after the other.
add_tables <- function(self, tables) {
  self$B <- length(tables$levels)
  self$Y <- matrix(as.numeric(unlist(tables$Y)), self$d, self$K)
  self$O <- matrix(as.numeric(unlist(tables$mass)), self$K, self$B, dimnames = list(NULL, unlist(tables$levels)))
  # Each variable's levels hold every cell once.
  size <- rowSums(self$O[, seq_len(tables$first), drop = FALSE])
  self$E <- outer(size, unlist(tables$level_counts) / self$N)
  dimnames(self$E) <- dimnames(self$O)
}

soft_assignments <- function(python, K, cells) {
  if (K == 0) return(matrix(0, 0, length(cells)))
  R <- .Call(C_new_matrix, K, reticulate::py_to_r(python$design$n_cells))
  settle(engine()$assignments(python, .Call(C_address, R)))
  colnames(R) <- cells
  R
}

#' @export
print.harmonax_result <- function(x, ...) {
  cat(sprintf("Harmony: %d cells x %d dimensions, %d batches, %d clusters\n%s\n", x$N, x$d, x$B, x$K, x$summary))
  invisible(x)
}
