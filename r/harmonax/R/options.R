# Other names of the engine's parameters: those of the harmony package, now and formerly, and of harmonypy.
ALIASES <- c(
  theta = "theta", sigma = "sigma", lambda = "ridge_lambda", lamb = "ridge_lambda", nclust = "n_clusters",
  max_iter = "max_iter_harmony", max.iter.harmony = "max_iter_harmony", max.iter.cluster = "max_iter_clustering",
  max_iter_kmeans = "max_iter_clustering", epsilon.harmony = "tol_harmony", epsilon_harmony = "tol_harmony",
  epsilon.cluster = "tol_clustering", epsilon_cluster = "tol_clustering", block.size = "block_proportion",
  block_size = "block_proportion", alpha = "alpha", tau = "tau", batch.prop.cutoff = "batch_prune_threshold",
  batch_prop_cutoff = "batch_prune_threshold", ncores = "n_threads", random_state = "rng",
  reference_values = "reference"
)
# The engine's own names.
PARAMETERS <- c(
  "flavor", "n_clusters", "max_iter_harmony", "max_iter_clustering", "tol_harmony", "tol_clustering", "sigma", "theta",
  "tau", "ridge", "ridge_lambda", "alpha", "batch_prune_threshold", "correction_method", "block_proportion", "precision",
  "rng", "n_threads", "backend", "max_memory", "scratch", "checkpoint", "save_model", "combine_keys", "missing",
  "allow_many_levels", "reference", "protect", "covariates"
)
# Arguments that older code may pass as NULL, and that have no counterpart here.
NOT_OFFERED <- c(
  cluster_prior = "clusters cannot be given", lambda_range = "give lambda, or alpha for the dynamic one"
)

#' Advanced options of RunHarmony
#'
#' @param alpha Dynamic ridge penalty (`lambda = NULL`), relative to the expected number of cells. Higher values correct
#'   less, lower values more.
#' @param tau Protects small batches: their theta is multiplied by `1 - exp(-(N_b / (K tau))^2)`. Higher values protect
#'   larger batches too; 0 switches it off.
#' @param block.size Share of the cells reassigned at a time, in (0, 1]. Lower values update the penalty more often in a
#'   pass, and take a little more time.
#' @param max.iter.cluster Maximum number of clustering passes in a round. Lower values take less time.
#' @param epsilon.cluster,epsilon.harmony Relative change of the objective below which passes and rounds stop: higher
#'   values stop earlier; `-Inf`: never. `NULL` for `epsilon.harmony`: 1e-4, or never with `early_stop = FALSE`.
#' @param batch.prop.cutoff A batch is left out of a cluster's correction where less than this share of its cells is
#'   there. Higher values leave out more batches; `NULL`: none.
#'
#' @return A list for the argument `.options` of [RunHarmony()].
#' @export
#' @examples
#' # Where the harmony package 2.0 stops:
#' harmony_options(max.iter.cluster = 4, epsilon.cluster = 1e-3, epsilon.harmony = 1e-2)
harmony_options <- function(alpha = 0.2, tau = 0, block.size = 0.05, max.iter.cluster = 200, epsilon.cluster = 1e-5,
                            epsilon.harmony = NULL, batch.prop.cutoff = 1e-5) {
  structure(as.list(environment()), class = "harmony_options")
}

# The engine's options: of the named arguments, of `.options`, and of the dots, which win over `.options`.
engine_options <- function(arguments, .options, dots, early_stop = TRUE) {
  if (!is.list(.options)) abort(".options must come from harmony_options()")
  dots <- offered(dots)
  under_our_names <- renamed(arguments, dots)
  options <- utils::modifyList(renamed(unclass(.options), list(), ".options"), under_our_names, keep.null = TRUE)
  lambda <- options$ridge_lambda
  if (is_dynamic(lambda)) options["ridge_lambda"] <- NULL
  else if (is.null(options[["ridge"]])) options$ridge <- "fixed"
  if (is.null(options$tol_harmony)) options$tol_harmony <- if (isTRUE(early_stop)) 1e-4 else 0
  for (name in c("tol_harmony", "tol_clustering")) {
    if (identical(as.numeric(options[[name]]), -Inf)) options[[name]] <- -1
  }
  threads <- options$n_threads
  options["n_threads"] <- list(if (is.null(threads) || identical(as.numeric(threads), 0)) NULL else threads)
  typed(options)
}

# lambda = NULL, or the older code -1.
is_dynamic <- function(lambda) is.null(lambda) || identical(as.numeric(lambda), -1)

offered <- function(dots) {
  given <- names(dots)
  if (length(dots) && (is.null(given) || any(given == ""))) abort("RunHarmony() takes further arguments by name only")
  for (name in intersect(given, names(NOT_OFFERED))) {
    if (!is.null(dots[[name]])) abort(sprintf("'%s' is not offered: %s", name, NOT_OFFERED[[name]]))
  }
  dots <- dots[setdiff(given, names(NOT_OFFERED))]
  known <- c(names(ALIASES), PARAMETERS)
  for (name in setdiff(names(dots), known)) {
    all_names <- c(known, "reduction.use", "dims.use", "reduction.save", "project.dim", "early_stop", "plot_convergence",
                   "return_object", "verbose", ".options")
    abort(sprintf("RunHarmony() has no argument '%s'; %s", name, nearest(name, all_names)))
  }
  dots
}

# Everything under the engine's names. `arguments` have defaults, and equal to it counts as not given; `dots` were given.
renamed <- function(arguments, dots, what = NULL) {
  ours <- function(names) ifelse(names %in% names(ALIASES), ALIASES[names], names)
  unknown <- setdiff(names(arguments), c(names(ALIASES), PARAMETERS))
  if (length(unknown)) {
    abort(sprintf("%s has no '%s'; %s", what, unknown[1], nearest(unknown[1], names(ALIASES))))
  }
  twice <- duplicated(ours(names(dots)))
  given <- names(arguments)[!is_default(arguments)]
  clash <- if (any(twice)) names(dots)[twice] else names(dots)[ours(names(dots)) %in% ours(given)]
  if (length(clash)) {
    abort(sprintf("'%s' is a second name of a parameter that was given already; pass only one of them", clash[1]))
  }
  named <- stats::setNames(arguments, ours(names(arguments)))
  extra <- stats::setNames(dots, ours(names(dots)))
  c(named[setdiff(names(named), names(extra))], extra)
}

is_default <- function(arguments) {
  defaults <- list(theta = NULL, sigma = 0.1, lambda = NULL, nclust = NULL, max_iter = 10, ncores = NULL)
  vapply(names(arguments), function(name) identical(arguments[[name]], defaults[[name]]), NA)
}

# R's numbers are doubles: what Python counts with must be whole. NULL is the engine's own default, but for a threshold,
# where it means none.
typed <- function(options) {
  for (name in intersect(c("n_threads", "max_memory"), names(options))) {
    value <- options[[name]]
    if (is.numeric(value) && length(value) == 1 && is.finite(value) && value == round(value)) {
      options[[name]] <- if (abs(value) < 2^31) as.integer(value) else format(value, scientific = FALSE)
    }
  }
  for (name in c("checkpoint", "scratch", "save_model")) {
    if (is.character(options[[name]])) options[[name]] <- path.expand(options[[name]])
  }
  options[vapply(options, Negate(is.null), NA) | names(options) == "batch_prune_threshold"]
}
